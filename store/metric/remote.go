package metric

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	commonconfig "github.com/prometheus/common/config"

	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/storage/remote"
)

// RemoteWrite is where series are sent besides being kept; the zero value sends nowhere. Make it with ReadRemoteWrite.
type RemoteWrite struct{ cfg *config.Config }

// remoteFlush is how long closing waits for backends to take what is queued for them.
const remoteFlush = 5 * time.Second

// remoteShards is how many requests to one backend are under way at once where its queue_config says nothing else. The queues hold at most 12,000
// samples for each; what does not fit waits in the write-ahead log.
const remoteShards = 4

// ReadRemoteWrite makes one of URLs, and of a file in Prometheus' format with remote_write and, if wanted, global.external_labels; "" is no
// file. File names in it are relative to its folder.
func ReadRemoteWrite(urls []string, file string) (RemoteWrite, error) {
	cfg := config.DefaultConfig
	if file != "" {
		c, err := config.LoadFile(file, false, slog.New(slog.DiscardHandler))
		if err != nil {
			return RemoteWrite{}, fmt.Errorf("remote write: %w", err)
		}
		if len(c.ScrapeConfigs)+len(c.ScrapeConfigFiles)+len(c.RuleFiles)+len(c.RemoteReadConfigs)+len(c.AlertingConfig.AlertmanagerConfigs) > 0 {
			return RemoteWrite{}, fmt.Errorf("remote write: %s: only remote_write and global.external_labels count here; take the rest out", file)
		}
		if len(c.RemoteWriteConfigs) == 0 {
			return RemoteWrite{}, fmt.Errorf("remote write: %s has no remote_write section", file)
		}
		cfg = *c
	}
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return RemoteWrite{}, fmt.Errorf("remote write: %q is no URL; write one as in https://metrics.example.com/api/v1/write", s)
		}
		if u.User != nil {
			return RemoteWrite{}, fmt.Errorf("remote write: %s: a password in a command line is seen by everyone on this machine; use a file with basic_auth and password_file instead", u.Redacted())
		}
		c := config.DefaultRemoteWriteConfig
		c.URL = &commonconfig.URL{URL: u}
		c.SendNativeHistograms, c.SendExemplars = true, true
		cfg.RemoteWriteConfigs = append(cfg.RemoteWriteConfigs, &c)
	}
	for i, c := range cfg.RemoteWriteConfigs {
		if slices.ContainsFunc(cfg.RemoteWriteConfigs[:i], func(o *config.RemoteWriteConfig) bool { return o.URL.String() == c.URL.String() && o.Name == c.Name }) {
			return RemoteWrite{}, fmt.Errorf("remote write: %s is named twice", c.URL.Redacted())
		}
		c.MetadataConfig.Send = false // metadata are those of scraping
		if c.QueueConfig == config.DefaultQueueConfig {
			c.QueueConfig.MinShards, c.QueueConfig.MaxShards = remoteShards, remoteShards
		}
	}
	return RemoteWrite{&cfg}, nil
}

// URLs are the backends, without passwords.
func (r RemoteWrite) URLs() []string {
	if r.cfg == nil {
		return nil
	}
	var out []string
	for _, c := range r.cfg.RemoteWriteConfigs {
		out = append(out, c.URL.Redacted())
	}
	return out
}

// sender is Prometheus' own remote write client: it follows the write-ahead log of the TSDB, from what is written after its start on.
//
// What must stay true: writing never waits for a backend. A backend that is away is tried again, for ever and ever more slowly, up to every 5 s; meanwhile
// the samples wait in the log, from which the TSDB takes them after two to three hours. What a backend refuses (status 4xx) is dropped and counted
// (prometheus_remote_storage_*). Samples that came out of order are in another log and are not sent; those that wait while the observer stops are lost to the backend.
type sender struct {
	storage *remote.Storage
	seen    *prometheus.Registry // a second view of its metrics, for status
	urls    []string
}

func (d *DB) send(dir string, to RemoteWrite) error {
	if to.cfg == nil || len(to.cfg.RemoteWriteConfigs) == 0 {
		return nil
	}
	s := &sender{seen: prometheus.NewRegistry(), urls: to.URLs()}
	s.storage = remote.NewStorage(d.cfg.Logger, both{d.cfg.Registerer, s.seen}, d.StartTime, dir, remoteFlush, nil, false)
	if err := s.storage.ApplyConfig(to.cfg); err != nil {
		return errors.Join(fmt.Errorf("remote write: %w", err), s.storage.Close())
	}
	d.tsdb.SetWriteNotified(s.storage)
	d.sender = s
	return nil
}

// RemoteStatus is how far one backend is.
type RemoteStatus struct {
	URL     string        `json:"url"`
	Failed  uint64        `json:"failed"`  // samples and histograms that it refused, and which were dropped, since the start
	Pending uint64        `json:"pending"` // samples and histograms in the queue; more wait in the write-ahead log
	Behind  time.Duration `json:"behindNs"`
}

// Remote reports the backends, in the order of the configuration; nil without any.
func (d *DB) Remote() []RemoteStatus {
	if d.sender == nil {
		return nil
	}
	families, err := d.sender.seen.Gather()
	if err != nil {
		return nil
	}
	byURL := map[string]*RemoteStatus{}
	out := make([]RemoteStatus, len(d.sender.urls))
	for i, u := range d.sender.urls {
		out[i].URL = u
		byURL[u] = &out[i]
	}
	sent := map[string]float64{} // seconds since the epoch
	for _, f := range families {
		name, ok := strings.CutPrefix(f.GetName(), "prometheus_remote_storage_")
		if !ok {
			continue
		}
		for _, m := range f.GetMetric() {
			var u string
			for _, l := range m.GetLabel() {
				if l.GetName() == "url" {
					u = l.GetValue()
				}
			}
			st := byURL[u]
			if st == nil {
				continue
			}
			switch v := m.GetCounter().GetValue() + m.GetGauge().GetValue(); name {
			case "samples_failed_total", "histograms_failed_total":
				st.Failed += uint64(v)
			case "samples_pending", "histograms_pending":
				st.Pending += uint64(v)
			case "queue_highest_sent_timestamp_seconds":
				sent[u] = v
			}
		}
	}
	for i := range out {
		st := &out[i]
		if st.Pending == 0 {
			continue
		}
		from := d.opened // nothing was ever taken
		if at := sent[st.URL]; at > 0 {
			from = time.UnixMilli(int64(at * 1000))
		}
		st.Behind = max(0, d.cfg.Now().Sub(from)).Truncate(time.Second)
	}
	return out
}
