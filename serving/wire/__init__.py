"""The bytes on the wire: Vertex-shaped JSON and protocol buffers, to and from the use-case layer's dataclasses."""
