package collector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/collector/connector/stored"
	"github.com/tulle-mesh/tulle/collector/exporter/tullestore"
	"github.com/tulle-mesh/tulle/store"
)

// sections are the parts of a configuration that hold components.
var sections = []string{"receivers", "processors", "exporters", "connectors", "extensions"}

// raw is a configuration in the form of the OpenTelemetry Collector, which is merged with ours. Components are added to ours under other names, pipelines stand
// beside ours, and those called traces and metrics add to ours: receivers before the first step, exporters behind the store.
type raw struct {
	name string // of the file, for errors
	conf map[string]any
	line map[string]int // "exporters otlp_grpc/tempo", "pipelines traces/tempo" → line
}

// parseRaw reads what a person wrote. Errors name the line.
func parseRaw(name string, content []byte) (*raw, error) {
	r := &raw{name: name, conf: map[string]any{}, line: map[string]int{}}
	var doc yaml.Node
	if err := yaml.Unmarshal(content, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", name, oneLine(err))
	}
	if len(doc.Content) == 0 {
		return r, nil
	}
	if err := doc.Decode(&r.conf); err != nil {
		return nil, fmt.Errorf("%s: %w", name, oneLine(err))
	}
	each(doc.Content[0], func(section string, at, value *yaml.Node) {
		r.line[section] = at.Line
		each(value, func(id string, at, value *yaml.Node) {
			r.line[section+" "+id] = at.Line
			if section == "service" && id == "pipelines" {
				each(value, func(id string, at, _ *yaml.Node) { r.line["pipelines "+id] = at.Line })
			}
		})
	})
	return r, nil
}

func each(n *yaml.Node, f func(key string, at, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		f(n.Content[i].Value, n.Content[i], n.Content[i+1])
	}
}

func oneLine(err error) error {
	return errors.New(strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " "))
}

// at is an error about a place in the file.
func (r *raw) at(place, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s: %s", r.name, r.line[place], place, fmt.Sprintf(format, args...))
}

// mapping is the value of key as a mapping; nil when there is none.
func (r *raw) mapping(m map[string]any, key, place string) (map[string]any, error) {
	switch v := m[key].(type) {
	case nil:
		return nil, nil
	case map[string]any:
		return v, nil
	default:
		return nil, r.at(place, "this must be a mapping, not %v", v)
	}
}

// strings is the value of key as a list of names.
func (r *raw) strings(m map[string]any, key, place string) ([]any, error) {
	switch v := m[key].(type) {
	case nil:
		return nil, nil
	case []any:
		for _, x := range v {
			if _, ok := x.(string); !ok {
				return nil, r.at(place, "%s: %v is no name of a component", key, x)
			}
		}
		return v, nil
	default:
		return nil, r.at(place, "%s must be a list of names", key)
	}
}

// additions are what a file adds to our own pipelines, by signal.
type additions struct{ receivers, exporters map[string][]any }

// merge adds the file's components, pipelines and extensions to ours, and returns what it adds to our pipelines.
func (r *raw) merge(ours map[string]any) (additions, error) {
	add := additions{map[string][]any{}, map[string][]any{}}
	for k := range r.conf {
		if k != "service" && !slices.Contains(sections, k) {
			return add, r.at(k, "there is no such part; a configuration has %s and service", strings.Join(sections, ", "))
		}
	}
	for _, section := range sections {
		theirs, err := r.mapping(r.conf, section, section)
		if err != nil {
			return add, err
		}
		own, _ := ours[section].(map[string]any)
		if own == nil {
			own = map[string]any{}
			ours[section] = own
		}
		for id, conf := range theirs {
			place := section + " " + id
			if _, taken := own[id]; taken {
				return add, r.at(place, "Tulle has one of this name; call yours %s/NAME", strings.SplitN(id, "/", 2)[0])
			}
			if t := strings.SplitN(id, "/", 2)[0]; t == tullestore.Type.String() || t == stored.Type.String() {
				return add, r.at(place, "there is only one store; receivers are added to the pipelines traces and metrics, and what is stored is the receiver stored")
			}
			if conf == nil {
				conf = map[string]any{}
			}
			own[id] = conf
		}
	}
	service, err := r.mapping(r.conf, "service", "service")
	if err != nil {
		return add, err
	}
	for k := range service {
		if k != "pipelines" && k != "extensions" {
			return add, r.at("service "+k, "this is Tulle's own and cannot be set")
		}
	}
	extensions, err := r.strings(service, "extensions", "service extensions")
	if err != nil {
		return add, err
	}
	pipelines, err := r.mapping(service, "pipelines", "service pipelines")
	if err != nil {
		return add, err
	}
	own := ours["service"].(map[string]any)                              //nolint:forcetypeassert // ours
	own["extensions"] = append(own["extensions"].([]any), extensions...) //nolint:forcetypeassert // ours
	lines := own["pipelines"].(map[string]any)                           //nolint:forcetypeassert // ours
	for id := range pipelines {
		place := "pipelines " + id
		p, err := r.mapping(pipelines, id, place)
		if err != nil {
			return add, err
		}
		lists := map[string][]any{}
		for k := range p {
			if k != "receivers" && k != "processors" && k != "exporters" {
				return add, r.at(place, "a pipeline has receivers, processors and exporters, and no %s", k)
			}
			if lists[k], err = r.strings(p, k, place); err != nil {
				return add, err
			}
		}
		for _, e := range lists["exporters"] {
			if e == tullestore.Type.String() || e == stored.Type.String() {
				return add, r.at(place, "nothing gets into the store past Tulle's own steps; add your receivers to the pipeline traces or metrics")
			}
		}
		if id == "traces" || id == "metrics" {
			if len(lists["processors"]) > 0 {
				return add, r.at(place, "the steps of Tulle's own pipelines are fixed; give %s/NAME processors of yours, with the receiver stored for what is stored", id)
			}
			add.receivers[id], add.exporters[id] = lists["receivers"], lists["exporters"]
			continue
		}
		if _, taken := lines[id]; taken {
			return add, r.at(place, "Tulle has a pipeline of this name")
		}
		lines[id] = p
	}
	return add, nil
}

// uses says whether a pipeline of a signal in the file receives from the component.
func (r *raw) uses(signal, receiver string) bool {
	service, _ := r.conf["service"].(map[string]any)
	pipelines, _ := service["pipelines"].(map[string]any)
	for id, p := range pipelines {
		p, _ := p.(map[string]any)
		list, _ := p["receivers"].([]any)
		if strings.HasPrefix(id, signal+"/") && slices.Contains(list, any(receiver)) {
			return true
		}
	}
	return false
}

// locate adds file, line and component to an error of the collector that is about the file.
func (r *raw) locate(err error) error {
	text := oneLine(err).Error()
	best, line := "", 0
	for place, l := range r.line {
		_, id, ok := strings.Cut(place, " ")
		if ok && (strings.Contains(text, place) || strings.Contains(text, strings.Replace(place, " ", "::", 1)) || strings.Contains(text, `"`+id+`"`)) && len(place) > len(best) {
			best, line = place, l
		}
	}
	if best == "" {
		return fmt.Errorf("%s: %s", r.name, text)
	}
	return fmt.Errorf("%s:%d: %s: %s", r.name, line, best, text)
}

// Check builds all pipelines of cfg without starting any, and says what is wrong with them.
func Check(ctx context.Context, cfg Config) error {
	c, err := New(cfg)
	if err != nil {
		return err
	}
	col, err := c.embedded()
	if err != nil {
		return fmt.Errorf("collector: %w", err)
	}
	if err := col.DryRun(ctx); err != nil {
		if c.raw != nil {
			return fmt.Errorf("collector: %w", c.raw.locate(err))
		}
		return fmt.Errorf("collector: %w", oneLine(err))
	}
	return nil
}

// hidden stands for the values of headers, which may be secrets.
const hidden = "hidden"

// unopened stands for a store where none is needed.
type unopened struct{ backend }

type backend = store.Spans

// Print is the configuration that cfg makes, as YAML. Values of headers that did not come from the file are hidden. It needs no stores.
func Print(cfg Config) ([]byte, error) {
	cfg.Spans, cfg.HashKey = unopened{}, []byte(hidden)
	cfg.Export = slices.Clone(cfg.Export)
	for i, e := range cfg.Export {
		cfg.Export[i].Headers = map[string]string{}
		for k := range e.Headers {
			cfg.Export[i].Headers[k] = hidden
		}
	}
	c, err := New(cfg)
	if err != nil {
		return nil, err
	}
	conf, err := c.pipelines()
	if err != nil {
		return nil, fmt.Errorf("collector: %w", err)
	}
	return yaml.Marshal(conf)
}

// literal is a value of ours such that nothing in it is taken for a reference to the environment.
func literal(v any) any {
	switch v := v.(type) {
	case string:
		return strings.ReplaceAll(v, "$", "$$")
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = literal(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = literal(v[k])
		}
		return out
	default:
		return v
	}
}
