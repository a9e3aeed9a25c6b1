// A gRPC connection against nghttp2's own client: whatever the pieces in which bytes arrive, calls are told whole and
// answers arrive whole; and bytes that were changed on their way, or are none of HTTP/2, do no harm.
#include <nghttp2/nghttp2.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "http2/connection.h"

using namespace likewise::http2;

#define CLAIM(holds, claim) likewise::check((holds), claim, __FILE__, __LINE__)

namespace {

constexpr Limits limits{100, 4096, 1 << 20};

// The client's end: calls with a message each, and what came back.
struct Client {
  struct Call {
    std::string sent;
    size_t at = 0;
    std::string got;
    std::map<std::string, std::string> told;
    bool is_over = false;
  };

  Client() {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t n_name,
                      const uint8_t* value, size_t n_value, uint8_t, void* self) {
          static_cast<Client*>(self)->calls[frame->hd.stream_id].told[std::string(
              reinterpret_cast<const char*>(name), n_name)] = {reinterpret_cast<const char*>(value), n_value};
          return 0;
        });
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        callbacks, [](nghttp2_session*, uint8_t, int32_t id, const uint8_t* data, size_t n, void* self) {
          static_cast<Client*>(self)->calls[id].got.append(reinterpret_cast<const char*>(data), n);
          return 0;
        });
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks,
                                                           [](nghttp2_session*, int32_t id, uint32_t, void* self) {
                                                             static_cast<Client*>(self)->calls[id].is_over = true;
                                                             return 0;
                                                           });
    nghttp2_session_client_new(&session, callbacks, this);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, nullptr, 0);
  }
  ~Client() { nghttp2_session_del(session); }

  int32_t ask(const std::string& path, const std::string& content, size_t n_filling = 0) {
    const std::string filling(n_filling, 'x');
    const std::pair<std::string, std::string> fields[] = {{":method", "POST"},
                                                          {":scheme", "http"},
                                                          {":path", path},
                                                          {":authority", "here"},
                                                          {"content-type", "application/grpc"},
                                                          {"x-filling", filling}};
    std::vector<nghttp2_nv> sent;
    for (const auto& [name, value] : fields) {
      sent.push_back({reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
                      reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
                      NGHTTP2_NV_FLAG_NONE});
    }
    nghttp2_data_provider body{};
    body.read_callback = [](nghttp2_session*, int32_t id, uint8_t* buffer, size_t n, uint32_t* flags,
                            nghttp2_data_source*, void* self) -> ssize_t {
      Call& call = static_cast<Client*>(self)->calls[id];
      const size_t n_copied = std::min(n, call.sent.size() - call.at);
      std::memcpy(buffer, call.sent.data() + call.at, n_copied);
      call.at += n_copied;
      if (call.at == call.sent.size()) *flags |= NGHTTP2_DATA_FLAG_EOF;
      return static_cast<ssize_t>(n_copied);
    };
    const int32_t id = nghttp2_submit_request(session, nullptr, sent.data(), sent.size(), &body, nullptr);
    const auto n = static_cast<uint32_t>(content.size());
    const char prefix[] = {0, static_cast<char>(n >> 24), static_cast<char>(n >> 16), static_cast<char>(n >> 8),
                           static_cast<char>(n)};
    calls[id].sent = std::string(prefix, sizeof prefix) + content;
    return id;
  }

  std::string take() {
    std::string out;
    const uint8_t* data = nullptr;
    for (ssize_t n; (n = nghttp2_session_mem_send(session, &data)) > 0;) {
      out.append(reinterpret_cast<const char*>(data), static_cast<size_t>(n));
    }
    return out;
  }

  bool receive(const std::string& bytes) {
    return nghttp2_session_mem_recv(session, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()) >= 0;
  }

  nghttp2_session* session = nullptr;
  std::map<int32_t, Call> calls;
};

std::span<const uint8_t> view(const std::string& bytes, size_t at, size_t n) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()) + at, n};
}

std::string some(std::mt19937_64& random, size_t n) {
  std::string out(n, '\0');
  for (char& each : out) each = static_cast<char>(random());
  return out;
}

// The bytes of a length and what was said of it, one after the other.
void exchange(uint64_t seed, size_t n_calls, size_t most) {
  std::mt19937_64 random(seed);
  Client client;
  Connection server(limits);
  std::map<int32_t, std::string> asked, answered, heard;
  std::map<int32_t, bool> ended;
  for (size_t at = 0; at < n_calls; ++at) {
    const std::string content = some(random, random() % most);
    asked[client.ask("/a.B/C" + std::to_string(at), content)] = content;
  }
  for (int round = 0; round < 10'000; ++round) {
    const std::string up = client.take();
    for (size_t at = 0, n; at < up.size(); at += n) {
      n = std::min<size_t>(1 + random() % (random() % 2 ? 20 : 20'000), up.size() - at);
      CLAIM(server.receive(view(up, at, n)), "what a client sends is taken");
      for (const Event& event : server.told()) {
        if (event.kind == Kind::head) {
          CLAIM(event.code == 0 && event.path.starts_with("/a.B/C"), "a head is told with its path");
          heard[event.stream];
        } else if (event.kind == Kind::message) {
          heard[event.stream] += event.data;
        } else if (event.kind == Kind::end) {
          CLAIM(heard.at(event.stream) == asked.at(event.stream), "a message is told whole");
          answered[event.stream] = some(random, random() % most);
          server.head(event.stream, {});
          server.message(event.stream, answered[event.stream]);
          server.trailers(event.stream, {{"grpc-status", "0"}});
        } else {
          CLAIM(false, "nothing else is told");
        }
      }
    }
    std::string down;
    server.take(down, 1 + random() % 5000);
    CLAIM(client.receive(down), "what the server sends is HTTP/2");
    if (up.empty() && down.empty()) break;
  }
  for (const auto& [id, content] : asked) {
    const Client::Call& call = client.calls.at(id);
    CLAIM(call.is_over && call.told.at("grpc-status") == "0", "a call ends well");
    CLAIM(call.got.size() == answered.at(id).size() + 5 && call.got.substr(5) == answered.at(id),
          "an answer arrives whole");
  }
  CLAIM(server.n_open() == 0 && server.n_unsent_bytes() == 0, "nothing is kept of calls that are over");
}

void refusals() {
  Client client;
  Connection server(limits);
  const int32_t large = client.ask("/a.B/C", "x", 5000),
                long_one = client.ask("/a.B/C", std::string((1 << 20) + 1, 'x'));
  std::map<int32_t, Kind> last;
  for (int round = 0; round < 1000; ++round) {
    const std::string up = client.take();
    if (!up.empty()) CLAIM(server.receive(view(up, 0, up.size())), "too much of something is taken");
    for (const Event& event : server.told()) {
      if (event.kind == Kind::head && event.stream == large) {
        CLAIM(event.code == static_cast<uint32_t>(Fault::too_large) && event.metadata.empty(), "metadata too large");
        server.trailers(large, {{"grpc-status", "8"}});
      }
      if (event.kind == Kind::too_long) {
        CLAIM(event.code == (1 << 20) + 1, "the length of a message too long is told");
        server.trailers(event.stream, {{"grpc-status", "8"}});
      }
      last[event.stream] = event.kind;
    }
    std::string down;
    server.take(down, 1 << 16);
    CLAIM(client.receive(down), "a refusal is HTTP/2");
    if (up.empty() && down.empty()) break;
  }
  CLAIM(last.at(long_one) == Kind::too_long, "nothing is told of a call after a message too long");
  for (const int32_t id : {large, long_one}) {
    CLAIM(client.calls.at(id).told.at("grpc-status") == "8", "a refusal arrives");
    CLAIM(client.calls.at(id).is_over, "a refused call is over");
  }
  CLAIM(server.n_open() == 0 && server.n_unsent_bytes() == 0, "nothing is kept of refused calls");
  server.head(large, {});  // none of these finds anything
  server.message(large, "x");
  server.trailers(large, {});
}

// Traffic with some of its bytes changed; the server answers whatever it is told.
void damage(uint64_t seed) {
  std::mt19937_64 random(seed);
  Client client;
  Connection server(limits);
  for (size_t at = 0; at < 4; ++at) client.ask("/a.B/C", some(random, random() % 300));
  for (int round = 0; round < 20; ++round) {
    std::string up = random() % 20 == 0 ? some(random, 100) : client.take();
    for (size_t at = random() % 3; at > 0 && !up.empty(); --at) {
      up[random() % up.size()] = static_cast<char>(random());
    }
    const bool is_well = server.receive(view(up, 0, up.size()));
    for (const Event& event : server.told()) {
      CLAIM(event.data.size() <= limits.message_bytes, "no message is longer than may be");
      switch (random() % 4) {
        case 0:
          server.head(event.stream, {{"x", "y"}});
          break;
        case 1:
          server.message(event.stream, some(random, 50));
          break;
        case 2:
          server.trailers(event.stream, {{"grpc-status", "0"}});
          break;
        default:
          break;
      }
    }
    if (random() % 10 == 0) server.ping();
    if (random() % 20 == 0) server.leave();
    std::string down;
    server.take(down, 1 << 16);
    client.receive(down);
    if (!is_well) return;
  }
}

}  // namespace

int main() {
  for (uint64_t seed = 0; seed < 40; ++seed) exchange(seed, 1 + seed % 30, seed % 3 == 0 ? 200'000 : 300);
  refusals();
  for (uint64_t seed = 0; seed < 20'000; ++seed) damage(seed);
  return likewise::report();
}
