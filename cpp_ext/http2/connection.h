// One gRPC connection over HTTP/2, seen from the server: bytes in, what they say out, and the other way round. Frames,
// header compression and flow control are nghttp2's; here is what gRPC lays over them. No sockets, no clocks, no
// threads. Source: RFC 9113; gRPC over HTTP2 (PROTOCOL-HTTP2.md of grpc/grpc).
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace likewise::http2 {

using Headers = std::vector<std::pair<std::string, std::string>>;

struct Limits {
  uint32_t n_streams;      // calls at once
  uint32_t header_bytes;   // of one call's metadata, names and values, 32 more for each
  uint32_t message_bytes;  // of one message
};

enum class Kind : uint8_t {
  head,      // a call begins: path and metadata; `code` is a Fault
  message,   // one message of a call, in `data`; `code` is its compression flag
  too_long,  // a message announces more than may be; `code` is its length. Nothing more of the call is told
  end,       // the client has sent all
  closed,    // a call that had not been answered is over; `code` is the reset's
};

// What is wrong with a head.
enum class Fault : uint32_t { none, too_large, not_grpc };

struct Event {
  Kind kind;
  int32_t stream;
  uint32_t code = 0;
  std::string path;
  Headers metadata;  // without those of HTTP/2 itself
  std::string data;
};

// Not thread-safe.
class Connection {
 public:
  explicit Connection(const Limits& limits);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Takes what came over the wire. False: this is no HTTP/2, or breaks its rules; what `take` still gives tells the
  // client.
  bool receive(std::span<const uint8_t> bytes);
  // Gives what has been said since it was asked last, in its order.
  std::vector<Event> told() { return std::exchange(events_, {}); }

  // Begins the answer of a call, which may be over already.
  void head(int32_t stream, const Headers& metadata);
  // One message of an answer that has begun.
  void message(int32_t stream, std::string_view content);
  // Ends a call; without `head` before, the answer is nothing but these.
  void trailers(int32_t stream, const Headers& metadata);

  void ping();
  // Tells the client to begin no more calls here.
  void leave();

  // Appends what is to be sent to `out`, about so many bytes at the most.
  void take(std::string& out, size_t n_bytes);

  // Whether the client has shown that it speaks HTTP/2.
  bool is_greeted() const { return is_greeted_; }
  size_t n_open() const { return streams_.size(); }
  // Bytes of answers that the client has not taken yet.
  size_t n_unsent_bytes() const { return n_unsent_; }

 private:
  struct Stream {
    Event head{Kind::head, 0, 0, {}, {}, {}};
    size_t n_head_bytes = 0;
    std::string partial;  // of a message
    std::string unsent;
    size_t n_sent = 0;  // of unsent
    Headers trailers;
    bool is_told = false;     // its head
    bool is_deaf = false;     // nothing more that comes is told
    bool has_begun = false;   // the answer
    bool has_ended = false;   // the answer, trailers and all, has been given
    bool is_waiting = false;  // for more of the answer
  };

  static int on_begin(nghttp2_session*, const nghttp2_frame* frame, void* self);
  static int on_header(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t n_name,
                       const uint8_t* value, size_t n_value, uint8_t, void* self);
  static int on_frame(nghttp2_session*, const nghttp2_frame* frame, void* self);
  static int on_sent(nghttp2_session*, const nghttp2_frame* frame, void* self);
  static int on_data(nghttp2_session*, uint8_t, int32_t id, const uint8_t* data, size_t n, void* self);
  static int on_close(nghttp2_session*, int32_t id, uint32_t code, void* self);
  static ssize_t on_read(nghttp2_session*, int32_t id, uint8_t* buffer, size_t n, uint32_t* flags, nghttp2_data_source*,
                         void* self);

  Stream* find(int32_t id);
  void tell_messages(int32_t id, Stream& stream);
  void submit(int32_t id, const Headers& metadata, bool has_body);

  Limits limits_;
  nghttp2_session* session_ = nullptr;
  std::unordered_map<int32_t, Stream> streams_;
  std::vector<Event> events_;
  bool is_greeted_ = false;
  size_t n_unsent_ = 0;
};

}  // namespace likewise::http2
