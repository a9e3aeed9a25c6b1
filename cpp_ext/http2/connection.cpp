#include "connection.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>

namespace likewise::http2 {
namespace {

constexpr size_t prefix_bytes = 5;  // of a message: its compression flag and its length
constexpr size_t field_bytes = 32;  // what a header counts beside its bytes (RFC 9113, 6.5.2)
constexpr uint32_t stream_window = 256 * 1024;
constexpr int32_t connection_window = 4 * 1024 * 1024;
// Clients reset every call that they stop waiting for: many in a burst, and then so many a second, before it is an
// attack.
constexpr uint64_t resets_at_once = 20'000, resets_a_second = 2'000;
constexpr size_t max_answers = 10'000;  // to pings and settings that a client does not read

nghttp2_nv field(std::string_view name, std::string_view value) {
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

void add(std::vector<nghttp2_nv>& fields, const Headers& metadata) {
  for (const auto& [name, value] : metadata) fields.push_back(field(name, value));
}

void checked(int status) {
  if (status == NGHTTP2_ERR_NOMEM) throw std::bad_alloc();
}

Connection& of(void* self) { return *static_cast<Connection*>(self); }

}  // namespace

Connection::Connection(const Limits& limits) : limits_(limits) {
  nghttp2_session_callbacks* callbacks = nullptr;
  nghttp2_option* option = nullptr;
  if (nghttp2_session_callbacks_new(&callbacks) != 0) throw std::bad_alloc();
  if (nghttp2_option_new(&option) != 0) {
    nghttp2_session_callbacks_del(callbacks);
    throw std::bad_alloc();
  }
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
  nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_sent);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
  nghttp2_option_set_max_outbound_ack(option, max_answers);
  nghttp2_option_set_stream_reset_rate_limit(option, resets_at_once, resets_a_second);
  nghttp2_option_set_no_closed_streams(option, 1);
  const int made = nghttp2_session_server_new2(&session_, callbacks, this, option);
  nghttp2_session_callbacks_del(callbacks);
  nghttp2_option_del(option);
  if (made != 0) throw std::bad_alloc();
  const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits.n_streams},
                                             {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, stream_window},
                                             {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, limits.header_bytes}};
  if (nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings)) != 0 ||
      nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, connection_window) != 0) {
    nghttp2_session_del(session_);
    throw std::bad_alloc();
  }
}

Connection::~Connection() { nghttp2_session_del(session_); }

bool Connection::receive(std::span<const uint8_t> bytes) {
  const ssize_t n = nghttp2_session_mem_recv(session_, bytes.data(), bytes.size());
  if (n == NGHTTP2_ERR_NOMEM) throw std::bad_alloc();
  return n >= 0 && nghttp2_session_want_read(session_) != 0;
}

void Connection::head(int32_t id, const Headers& metadata) {
  if (Stream* stream = find(id); stream != nullptr && !stream->has_begun) submit(id, metadata, true);
}

void Connection::message(int32_t id, std::string_view content) {
  Stream* stream = find(id);
  if (stream == nullptr || !stream->has_begun || stream->has_ended) return;
  const auto n = static_cast<uint32_t>(content.size());
  const char prefix[prefix_bytes] = {0, static_cast<char>(n >> 24), static_cast<char>(n >> 16),
                                     static_cast<char>(n >> 8), static_cast<char>(n)};
  stream->unsent.append(prefix, prefix_bytes).append(content);
  n_unsent_ += prefix_bytes + content.size();
  if (stream->is_waiting) {
    stream->is_waiting = false;
    checked(nghttp2_session_resume_data(session_, id));
  }
}

void Connection::trailers(int32_t id, const Headers& metadata) {
  Stream* stream = find(id);
  if (stream == nullptr || stream->has_ended) return;
  stream->has_ended = true;
  stream->is_deaf = true;
  if (!stream->has_begun) {
    submit(id, metadata, false);
    return;
  }
  stream->trailers = metadata;
  if (stream->is_waiting) {
    stream->is_waiting = false;
    checked(nghttp2_session_resume_data(session_, id));
  }
}

void Connection::ping() { checked(nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr)); }

void Connection::leave() {
  const int32_t last = nghttp2_session_get_last_proc_stream_id(session_);
  checked(nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, nullptr, 0));
}

void Connection::take(std::string& out, size_t n_bytes) {
  while (out.size() < n_bytes) {
    const uint8_t* data = nullptr;
    const ssize_t n = nghttp2_session_mem_send(session_, &data);
    if (n == NGHTTP2_ERR_NOMEM) throw std::bad_alloc();
    if (n <= 0) return;
    out.append(reinterpret_cast<const char*>(data), static_cast<size_t>(n));
  }
}

int Connection::on_begin(nghttp2_session*, const nghttp2_frame* frame, void* self) {
  if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
    of(self).streams_[frame->hd.stream_id].head.stream = frame->hd.stream_id;
  }
  return 0;
}

int Connection::on_header(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t n_name,
                          const uint8_t* value, size_t n_value, uint8_t, void* self) {
  Stream* stream = of(self).find(frame->hd.stream_id);
  if (stream == nullptr || stream->is_told) return 0;  // trailers of a client mean nothing in gRPC
  stream->n_head_bytes += n_name + n_value + field_bytes;
  Event& head = stream->head;
  if (stream->n_head_bytes > of(self).limits_.header_bytes) {
    head.code = static_cast<uint32_t>(Fault::too_large);
    head.metadata.clear();
    return 0;
  }
  const std::string_view key(reinterpret_cast<const char*>(name), n_name);
  const std::string_view held(reinterpret_cast<const char*>(value), n_value);
  const bool is_wrong =
      (key == ":method" && held != "POST") || (key == "content-type" && !held.starts_with("application/grpc"));
  if (key == ":path") head.path = held;
  if (is_wrong) head.code = static_cast<uint32_t>(Fault::not_grpc);
  if (!key.empty() && key.front() != ':') head.metadata.emplace_back(key, held);
  return 0;
}

int Connection::on_frame(nghttp2_session*, const nghttp2_frame* frame, void* self) {
  Connection& connection = of(self);
  connection.is_greeted_ = true;
  if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
  const int32_t id = frame->hd.stream_id;
  Stream* stream = connection.find(id);
  if (stream == nullptr) return 0;
  if (frame->hd.type == NGHTTP2_HEADERS && !stream->is_told) {
    stream->is_told = true;
    connection.events_.push_back(std::move(stream->head));
  }
  if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 && !stream->is_deaf) {
    connection.events_.push_back({Kind::end, id, 0, {}, {}, {}});
  }
  return 0;
}

int Connection::on_sent(nghttp2_session* session, const nghttp2_frame* frame, void* self) {
  // Who is answered before all has come need not send the rest.
  const bool is_end = frame->hd.type == NGHTTP2_HEADERS && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
  const int32_t id = frame->hd.stream_id;
  if (is_end && of(self).find(id) != nullptr && nghttp2_session_get_stream_remote_close(session, id) == 0) {
    checked(nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_NO_ERROR));
  }
  return 0;
}

int Connection::on_data(nghttp2_session*, uint8_t, int32_t id, const uint8_t* data, size_t n, void* self) {
  Connection& connection = of(self);
  Stream* stream = connection.find(id);
  if (stream == nullptr || stream->is_deaf) return 0;
  stream->partial.append(reinterpret_cast<const char*>(data), n);
  connection.tell_messages(id, *stream);
  return 0;
}

int Connection::on_close(nghttp2_session*, int32_t id, uint32_t code, void* self) {
  Connection& connection = of(self);
  const auto found = connection.streams_.find(id);
  if (found == connection.streams_.end()) return 0;
  const Stream& stream = found->second;
  if (stream.is_told && !stream.has_ended) {
    connection.events_.push_back({Kind::closed, id, code, {}, {}, {}});
  }
  connection.n_unsent_ -= stream.unsent.size() - stream.n_sent;
  connection.streams_.erase(found);
  return 0;
}

ssize_t Connection::on_read(nghttp2_session* session, int32_t id, uint8_t* buffer, size_t n, uint32_t* flags,
                            nghttp2_data_source*, void* self) {
  Stream* stream = of(self).find(id);
  if (stream == nullptr) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  const size_t n_copied = std::min(n, stream->unsent.size() - stream->n_sent);
  std::memcpy(buffer, stream->unsent.data() + stream->n_sent, n_copied);
  stream->n_sent += n_copied;
  of(self).n_unsent_ -= n_copied;
  if (stream->n_sent == stream->unsent.size()) {
    stream->unsent.clear();
    stream->n_sent = 0;
    if (stream->has_ended) {
      *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
      std::vector<nghttp2_nv> fields;
      add(fields, stream->trailers);
      if (nghttp2_submit_trailer(session, id, fields.data(), fields.size()) != 0) {
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
      }
    } else if (n_copied == 0) {
      stream->is_waiting = true;
      return NGHTTP2_ERR_DEFERRED;
    }
  }
  return static_cast<ssize_t>(n_copied);
}

Connection::Stream* Connection::find(int32_t id) {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : &found->second;
}

void Connection::tell_messages(int32_t id, Stream& stream) {
  size_t at = 0;
  std::string& partial = stream.partial;
  while (partial.size() - at >= prefix_bytes) {
    const auto* prefix = reinterpret_cast<const uint8_t*>(partial.data()) + at;
    const uint32_t n = uint32_t{prefix[1]} << 24 | uint32_t{prefix[2]} << 16 | uint32_t{prefix[3]} << 8 | prefix[4];
    if (n > limits_.message_bytes) {
      stream.is_deaf = true;
      events_.push_back({Kind::too_long, id, n, {}, {}, {}});
      at = partial.size();
      break;
    }
    if (partial.size() - at - prefix_bytes < n) break;
    events_.push_back({Kind::message, id, prefix[0], {}, {}, partial.substr(at + prefix_bytes, n)});
    at += prefix_bytes + n;
  }
  partial.erase(0, at);
}

void Connection::submit(int32_t id, const Headers& metadata, bool has_body) {
  streams_.at(id).has_begun = true;
  std::vector<nghttp2_nv> fields{field(":status", "200"), field("content-type", "application/grpc"),
                                 field("grpc-accept-encoding", "identity,deflate,gzip")};
  add(fields, metadata);
  nghttp2_data_provider body{};
  body.read_callback = on_read;
  checked(nghttp2_submit_response(session_, id, fields.data(), fields.size(), has_body ? &body : nullptr));
}

}  // namespace likewise::http2
