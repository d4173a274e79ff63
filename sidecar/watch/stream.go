package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/policy"
)

type adsStream = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient

// errResync ends a stream whose content does not add up to the revision the controller names; the next one begins from nothing.
var errResync = errors.New("watch: what the controller sent does not add up to its revision; asking for everything again")

// stream opens one connection and serves it until it ends.
func (w *Watcher) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ads, hangUp, err := w.dial(ctx)
	if err != nil {
		return err
	}
	defer hangUp()
	return w.converse(ctx, ads)
}

// dialController opens a stream over a connection of its own, which hangUp closes.
func (w *Watcher) dialController(ctx context.Context) (ads adsStream, hangUp func(), err error) {
	conn, err := grpc.NewClient("passthrough:///"+w.cfg.Controller,
		grpc.WithTransportCredentials(credentials.NewTLS(w.cfg.Identity.ClientTLS(w.cfg.ControllerID))),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return nil, nil, fmt.Errorf("watch: controller address %q: %w", w.cfg.Controller, err)
	}
	if ads, err = discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return ads, func() { _ = conn.Close() }, nil
}

// converse serves one stream until it ends; ctx ends with it.
func (w *Watcher) converse(ctx context.Context, ads adsStream) error {
	if err := w.subscribe(ads); err != nil {
		if _, rerr := ads.Recv(); rerr != nil { // a failed Send only says EOF
			return rerr
		}
		return err
	}
	responses, ended := make(chan *discoveryv3.DeltaDiscoveryResponse), make(chan error, 1)
	go func() { // ends with ctx
		for {
			resp, err := ads.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case responses <- resp:
			case <-ctx.Done():
				return
			}
		}
	}()
	// why is the status behind a failed Send, which itself only says EOF; the receiver gets it, and nobody else may receive.
	why := func() error {
		for {
			select {
			case <-responses:
			case err := <-ended:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	refusals := map[string]string{} // by type URL: why its last response was refused
	for {
		select {
		case resp := <-responses:
			w.connected()
			if err := w.receive(ads, resp, refusals); errors.Is(err, io.EOF) {
				return why()
			} else if err != nil {
				return err
			}
		case <-w.destinations.wake:
			if err := w.ask(ads); err != nil {
				return why()
			}
		case err := <-ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// subscribe asks for all kinds, saying what is here already. Policy is always asked for anew, so that the controller learns what is in force.
func (w *Watcher) subscribe(ads adsStream) error {
	node := &corev3.Node{
		Id: w.cfg.Workload.Instance, Cluster: w.cfg.Workload.Service, UserAgentName: "tulle-sidecar", ClientFeatures: []string{policy.FeatureOnDemand, policy.FeatureRoutes},
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"tulle_version": structpb.NewStringValue(w.cfg.Version),
			"namespace":     structpb.NewStringValue(w.cfg.Workload.Namespace),
			"version":       structpb.NewStringValue(w.cfg.Workload.Version),
		}},
	}
	needed := w.destinations.begin()
	for _, k := range policy.Kinds {
		if k.OnDemand {
			continue
		}
		req := &discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: k.TypeURL, ResourceNamesSubscribe: []string{"*"}}
		if k.TypeURL == policy.TypeService {
			req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, needed...)
		}
		if k.TypeURL != policy.TypePolicy {
			req.InitialResourceVersions = map[string]string{}
			for _, r := range w.staged[k.TypeURL] {
				req.InitialResourceVersions[r.Name] = r.Version
			}
		}
		if err := ads.Send(req); err != nil {
			return err
		}
		node = nil // only the first request carries it
	}
	return w.ask(ads)
}

// receive checks one response, stages it, and answers. Policy puts what is staged in force.
func (w *Watcher) receive(ads adsStream, resp *discoveryv3.DeltaDiscoveryResponse, refusals map[string]string) error {
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce()}
	bad, refusal := w.stage(resp)
	w.destinations.refuse(bad)
	if refusal == nil {
		delete(refusals, resp.GetTypeUrl())
		switch resp.GetTypeUrl() {
		case policy.TypeDestination:
			w.destinations.answer(resp, w.Current())
		case policy.TypePolicy:
			refusal = w.commit(refusals)
		}
	}
	if refusal != nil && !errors.Is(refusal, errResync) {
		refusals[resp.GetTypeUrl()] = refusal.Error()
		answer.ErrorDetail = &spb.Status{Code: int32(codes.InvalidArgument), Message: refusal.Error()}
		w.mu.Lock()
		w.status.Nacks++
		w.status.LastError = refusal.Error()
		w.mu.Unlock()
		w.cfg.Log.Error("policy refused; the last one stays in force", "error", refusal, "revision", resp.GetSystemVersionInfo())
	}
	if errors.Is(refusal, errResync) {
		return refusal
	}
	return ads.Send(answer)
}

// stage takes the response whole or, when one resource of it is bad, not at all; bad are the services that such resources are about.
func (w *Watcher) stage(resp *discoveryv3.DeltaDiscoveryResponse) (bad []string, refusal error) {
	url := resp.GetTypeUrl()
	if _, ok := policy.KindOf(url); !ok {
		return nil, fmt.Errorf("type %q is not known to this version of the sidecar; upgrade it", url)
	}
	var parts []policy.Part
	var refusals []error
	for _, x := range resp.GetResources() {
		r := policy.Resource{TypeURL: url, Name: x.GetName(), Version: x.GetVersion(), Body: x.GetResource()}
		p, err := policy.ReadResource(r)
		if err != nil {
			refusals = append(refusals, err)
			if url == policy.TypeService || url == policy.TypeEndpoints || url == policy.TypeRoutes {
				bad = append(bad, r.Name)
			}
			continue
		}
		parts = append(parts, p)
	}
	if len(refusals) > 0 {
		return bad, errors.Join(refusals...)
	}
	if url == policy.TypeDestination { // those live in their own cache
		return nil, nil
	}
	for _, p := range parts {
		w.staged.put(p)
	}
	for _, name := range resp.GetRemovedResources() {
		w.staged.remove(url, name)
	}
	return nil, nil
}

// staged is what was accepted, by type URL; each sorted by name, so that all of it is in the order of a revision.
type staged map[string][]policy.Part

func (s staged) find(url, name string) (int, bool) {
	return slices.BinarySearchFunc(s[url], name, func(p policy.Part, name string) int { return strings.Compare(p.Name, name) })
}

func (s staged) put(p policy.Part) {
	i, found := s.find(p.TypeURL, p.Name)
	if found {
		s[p.TypeURL][i] = p
		return
	}
	s[p.TypeURL] = slices.Insert(s[p.TypeURL], i, p)
}

func (s staged) remove(url, name string) {
	if i, found := s.find(url, name); found {
		s[url] = slices.Delete(s[url], i, i+1)
	}
}

// all is a copy of everything, and the same as resources.
func (s staged) all() (parts []policy.Part, resources []policy.Resource) {
	for _, url := range slices.Sorted(maps.Keys(s)) {
		parts = append(parts, s[url]...)
	}
	resources = make([]policy.Resource, len(parts))
	for i := range parts {
		resources[i] = parts[i].Resource
	}
	return parts, resources
}

// commit puts what is staged in force if it is exactly the revision that Policy names.
func (w *Watcher) commit(refusals map[string]string) error {
	all, resources := w.staged.all()
	s, err := policy.Assemble(all)
	have := ""
	if err == nil {
		have = policy.Revision(s.Workload, s.Telemetry, resources)
	}
	switch {
	case len(w.staged[policy.TypePolicy]) != 1:
		return fmt.Errorf("policy: %d Policy resources were sent, there must be exactly one", len(w.staged[policy.TypePolicy]))
	case err == nil && s.Revision == have:
	case len(refusals) > 0: // of other kinds: a staged Policy is not among them
		first := slices.Sorted(maps.Keys(refusals))[0]
		return fmt.Errorf("revision is not in force because part of it was refused: %s", refusals[first])
	case err == nil:
		w.staged = staged{}
		return errResync
	default:
		return err
	}
	if old := w.Current(); old == nil || old.Revision != s.Revision {
		w.disk.put(all)
		w.apply(s, false)
		w.cfg.Log.Info("policy in force", "revision", s.Revision)
	} else {
		w.mu.Lock()
		w.status.FromDisk = false
		w.mu.Unlock()
	}
	w.mu.Lock()
	w.status.LastError = ""
	w.mu.Unlock()
	return nil
}

// explain puts a stream's end in words a person can act on.
func (w *Watcher) explain(err error) error {
	if errors.Is(err, errResync) {
		return err
	}
	s := status.Convert(err)
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded:
		return fmt.Errorf("controller %s cannot be reached: %s (is it running there?)", w.cfg.Controller, s.Message())
	case codes.NotFound, codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument:
		return fmt.Errorf("controller %s refused: %s", w.cfg.Controller, s.Message())
	}
	return fmt.Errorf("controller %s closed the stream: %s", w.cfg.Controller, s.Message())
}
