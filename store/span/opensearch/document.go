package opensearch

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/jaegertracing/jaeger/model"
	"github.com/jaegertracing/jaeger/plugin/storage/es/spanstore/dbmodel"

	"github.com/tulle-mesh/tulle/store/span/jaegermodel"
)

// document is a span as it is kept: Jaeger's, and what it is found by.
type document struct {
	*dbmodel.Span
	Key   string   `json:"key"`             // of this very span; the document's id too
	Terms []string `json:"terms,omitempty"` // KEY=VALUE of its attributes, its resource's and its events'
}

// mapping indexes what is searched, and keeps the rest as it is.
const mapping = `{"dynamic": false, "properties": {
	"key": {"type": "keyword"}, "traceID": {"type": "keyword"}, "startTime": {"type": "long"}, "operationName": {"type": "keyword"},
	"process": {"properties": {"serviceName": {"type": "keyword"}}}, "terms": {"type": "keyword"},
	"kind": {"type": "keyword"}, "service": {"type": "keyword"}}}`

// term is what an attribute is found by; false when it is too long for that.
func term(key, value string) (string, bool) {
	return key + "=" + value, len(key)+len(value) < longestTerm
}

func toDocument(s *model.Span) (document, error) {
	hash, err := model.HashCode(s)
	if err != nil {
		return document{}, fmt.Errorf("span %s of trace %s: %w", s.SpanID, s.TraceID, err)
	}
	d := document{Span: dbmodel.NewFromDomain(false, nil, "").FromDomainEmbedProcess(s), Key: fmt.Sprintf("%s-%s-%016x", s.TraceID, s.SpanID, hash)}
	known := map[string]bool{}
	// Jaeger's form of a value may have lost some of it: numbers of many digits, long bytes.
	mend := func(from []model.KeyValue, to []dbmodel.KeyValue) {
		for i := range from {
			kv := &from[i]
			switch kv.VType {
			case model.Float64Type:
				to[i].Value = jaegermodel.Text(kv)
			case model.BinaryType:
				to[i].Value = hex.EncodeToString(kv.VBinary)
			}
			if t, ok := term(kv.Key, jaegermodel.Text(kv)); ok && !known[t] {
				known[t] = true
				d.Terms = append(d.Terms, t)
			}
		}
	}
	mend(s.Tags, d.Tags)
	mend(s.Process.Tags, d.Process.Tags)
	for i := range s.Logs {
		mend(s.Logs[i].Fields, d.Logs[i].Fields)
	}
	return d, nil
}

func fromDocument(d document) (*model.Span, error) {
	s, err := dbmodel.NewToDomain("").SpanToDomain(d.Span)
	if err != nil {
		return nil, fmt.Errorf("document %s: %w", d.Key, err)
	}
	return s, nil
}

// named is what there is: a service with an operation, or an attribute.
type named struct {
	Key       string `json:"key"`
	Kind      string `json:"kind"` // operation or attribute
	Service   string `json:"service,omitempty"`
	Operation string `json:"operation,omitempty"`
	SpanKind  string `json:"spanKind,omitempty"`
	Attribute string `json:"attribute,omitempty"`
}

// names are those of spans.
func names(spans []*model.Span) map[string]named {
	out := map[string]named{}
	add := func(n named) {
		n.Key = hex.EncodeToString([]byte(strings.Join([]string{n.Kind, n.Service, n.SpanKind, n.Operation, n.Attribute}, "\x00")))
		if len(n.Key) > 500 { // ids end at 512 bytes
			n.Key = fmt.Sprintf("%s-%x", n.Key[:400], sum(n.Key))
		}
		out[n.Key] = n
	}
	attributes := map[string]bool{"service.name": true}
	for _, s := range spans {
		kind := "unspecified"
		for _, tags := range append([][]model.KeyValue{s.Tags, s.Process.Tags}, fields(s)...) {
			for i := range tags {
				switch tags[i].Key {
				case jaegermodel.TagKind:
					kind = tags[i].AsString()
				case jaegermodel.TagStatus, jaegermodel.TagDescription, jaegermodel.TagTraceState, jaegermodel.TagScope, jaegermodel.TagScopeVersion:
				default:
					attributes[tags[i].Key] = true
				}
			}
		}
		add(named{Kind: "operation", Service: s.Process.ServiceName, Operation: s.OperationName, SpanKind: kind})
	}
	for a := range attributes {
		if a != "" && len(a) < longestTerm {
			add(named{Kind: "attribute", Attribute: a})
		}
	}
	return out
}

func fields(s *model.Span) (out [][]model.KeyValue) {
	for _, l := range s.Logs {
		out = append(out, l.Fields)
	}
	return out
}
