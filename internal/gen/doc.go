// Package gen is the parent of generated protobuf code; nothing in it is written by hand but the .proto files in gen/proto.
// `make generate` rewrites it (tools/genproto; no protoc needed).
package gen
