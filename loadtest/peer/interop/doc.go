// Package interop proves that gRPC goes through Tulle: the interoperability cases of grpc-go's own client and server, health checking,
// reflection, compression and gRPC-Web, through two sidecars in plaintext and with mTLS. It holds tests only.
package interop
