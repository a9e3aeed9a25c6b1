// A gRPC connection in Python: serving/grpc_connection.py is its other half.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "connection.h"

namespace nb = nanobind;

namespace likewise::http2 {
namespace {

nb::object latin(const std::string& text) {
  return nb::steal(PyUnicode_DecodeLatin1(text.data(), static_cast<Py_ssize_t>(text.size()), nullptr));
}

nb::object shown(const Headers& metadata) {
  nb::object all = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(metadata.size())));
  Py_ssize_t at = 0;
  for (const auto& [name, value] : metadata) {
    nb::object pair = nb::make_tuple(latin(name), latin(value));
    PyTuple_SET_ITEM(all.ptr(), at++, pair.release().ptr());
  }
  return all;
}

// (kind, call, code, path or message or None, metadata or None)
nb::object shown(const Event& event) {
  nb::object held = nb::none();
  nb::object metadata = nb::none();
  if (event.kind == Kind::head) {
    held = latin(event.path);
    metadata = shown(event.metadata);
  } else if (event.kind == Kind::message) {
    held = nb::bytes(event.data.data(), event.data.size());
  }
  return nb::make_tuple(static_cast<int>(event.kind), event.stream, event.code, held, metadata);
}

nb::tuple receive(Connection& connection, nb::bytes content) {
  const bool is_well = connection.receive({reinterpret_cast<const uint8_t*>(content.c_str()), content.size()});
  nb::list told;
  for (const Event& event : connection.told()) told.append(shown(event));
  return nb::make_tuple(is_well, told);
}

nb::bytes take(Connection& connection, size_t n_bytes) {
  std::string out;
  connection.take(out, n_bytes);
  return nb::bytes(out.data(), out.size());
}

std::string_view view(const nb::bytes& content) { return {content.c_str(), content.size()}; }

}  // namespace

NB_MODULE(_http2, m) {
  m.doc() = "gRPC connections over HTTP/2, without sockets.";
  nb::enum_<Kind>(m, "Kind", nb::is_arithmetic())
      .value("HEAD", Kind::head)
      .value("MESSAGE", Kind::message)
      .value("TOO_LONG", Kind::too_long)
      .value("END", Kind::end)
      .value("CLOSED", Kind::closed);
  nb::class_<Connection>(m, "Connection", "The server's end of one connection. Not thread-safe.")
      .def(
          "__init__",
          [](Connection* self, uint32_t n_streams, uint32_t header_bytes, uint32_t message_bytes) {
            new (self) Connection({n_streams, header_bytes, message_bytes});
          },
          nb::kw_only(), nb::arg("n_streams"), nb::arg("header_bytes"), nb::arg("message_bytes"))
      .def("receive", receive, nb::arg("content"),
           nb::sig(
               "def receive(self, content: bytes) -> tuple[bool, list[tuple[int, int, int, typing.Any, typing.Any]]]"),
           "Take what came; return whether the connection can go on, and what was said: kind, call, code, path or "
           "message, "
           "metadata.")
      .def("take", take, nb::arg("n_bytes"), "Return what is to be sent, about so many bytes at the most.")
      .def("head", &Connection::head, nb::arg("call"), nb::arg("metadata"), "Begin the answer of a call.")
      .def(
          "message", [](Connection& self, int32_t call, nb::bytes content) { self.message(call, view(content)); },
          nb::arg("call"), nb::arg("content"), "Add a message to an answer that has begun.")
      .def("trailers", &Connection::trailers, nb::arg("call"), nb::arg("metadata"), "End a call.")
      .def(
          "respond",
          [](Connection& self, int32_t call, const Headers& metadata, nb::bytes content, const Headers& trailers) {
            self.head(call, metadata);
            self.message(call, view(content));
            self.trailers(call, trailers);
          },
          nb::arg("call"), nb::arg("metadata"), nb::arg("content"), nb::arg("trailers"),
          "Answer a call by one message.")
      .def("ping", &Connection::ping, "Ask the client for a sign of life.")
      .def("leave", &Connection::leave, "Tell the client to begin no more calls here.")
      .def_prop_ro("is_greeted", &Connection::is_greeted, "Whether the client has shown that it speaks HTTP/2.")
      .def_prop_ro("n_unsent_bytes", &Connection::n_unsent_bytes, "Bytes of answers that the client has not taken.");
}

}  // namespace likewise::http2
