package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// Service answers the Identity service. The TLS layer below it must have verified a client certificate if one was shown.
type Service struct {
	tullev1.UnimplementedIdentityServer

	ca     *CA
	tokens tokens
	ttl    time.Duration
	now    func() time.Time
	log    *slog.Logger
	// OnIssued is called after every signature; it must not block. Set it before serving.
	OnIssued func(id identity.ID, notAfter time.Time, renewal bool)

	Issued, Refused atomic.Uint64
}

// NewService serves c with the tokens in dataDir; leaves live for ttl (0: DefaultLeafTTL).
func NewService(c *CA, dataDir string, ttl time.Duration, log *slog.Logger) *Service {
	if ttl <= 0 {
		ttl = DefaultLeafTTL
	}
	s := &Service{ca: c, ttl: ttl, now: time.Now, log: log, OnIssued: func(identity.ID, time.Time, bool) {}}
	s.tokens.dataDir = dataDir
	s.tokens.sweep(s.now())
	return s
}

// Sign implements tullev1.IdentityServer.
func (s *Service) Sign(ctx context.Context, req *tullev1.SignRequest) (*tullev1.SignResponse, error) {
	resp, err := s.sign(peerID(ctx), req)
	if err != nil {
		s.Refused.Add(1)
		s.log.Warn("certificate refused", "error", err)
	}
	return resp, err
}

func (s *Service) sign(caller identity.ID, req *tullev1.SignRequest) (*tullev1.SignResponse, error) {
	csr, err := x509.ParseCertificateRequest(req.GetCsrDer())
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "certificate request is unreadable: %v", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "certificate request is not signed by its own key: %v", err)
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if len(csr.URIs) != 1 {
		return nil, status.Errorf(codes.InvalidArgument, "certificate request has %d URI names; it must have exactly one, the SPIFFE ID", len(csr.URIs))
	}
	id, err := identity.Parse(csr.URIs[0].String())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if id.TrustDomain() != s.ca.trustDomain {
		return nil, status.Errorf(codes.PermissionDenied, "%s is not of this controller's trust domain %s", id, s.ca.trustDomain)
	}
	now := s.now()
	renewal := caller == id && !caller.IsZero()
	switch {
	case renewal: // a current certificate for the same identity needs no token
	case req.GetJoinToken() != "":
		err := s.tokens.redeem(req.GetJoinToken(), id, csr.RawSubjectPublicKeyInfo, now)
		switch {
		case errors.Is(err, ErrTokenIdentity):
			return nil, status.Errorf(codes.PermissionDenied, "%s: %v", id, err)
		case errors.Is(err, ErrTokenUnknown), errors.Is(err, ErrTokenExpired), errors.Is(err, ErrTokenUsed):
			return nil, status.Errorf(codes.Unauthenticated, "%s: %v", id, err)
		case err != nil:
			return nil, status.Errorf(codes.Unavailable, "%s: token could not be marked used: %v", id, err)
		}
	case caller.IsZero():
		return nil, status.Errorf(codes.Unauthenticated, "%s: neither a join token nor a current certificate was shown", id)
	default:
		return nil, status.Errorf(codes.PermissionDenied, "%s may not obtain a certificate for %s", caller, id)
	}
	chain, notAfter, err := s.ca.Leaf(csr.PublicKey, id, now, s.ttl)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	s.Issued.Add(1)
	s.OnIssued(id, notAfter, renewal)
	return &tullev1.SignResponse{
		ChainDer: chain, BundleDer: s.ca.BundleDER(), RenewAtUnix: RenewAt(now, notAfter).Unix(),
	}, nil
}

// RenewAt is a random instant between 50 and 70 % of what is left of a certificate's life, so that a fleet does not renew at once.
func RenewAt(now, notAfter time.Time) time.Time {
	return now.Add(time.Duration((0.5 + 0.2*rand.Float64()) * float64(notAfter.Sub(now))))
}

func peerID(ctx context.Context) identity.ID {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.ID{}
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return identity.ID{}
	}
	return identity.PeerID(info.State)
}
