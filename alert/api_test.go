package alert

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ask is one request of the API; a body makes it a POST.
func ask(t *testing.T, at, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, at+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func silenceOf(service string, lasts time.Duration) string {
	return fmt.Sprintf(`{"matchers":[{"name":"service","value":%q,"isRegex":false,"isEqual":true}],"startsAt":%q,"endsAt":%q,"createdBy":"ana","comment":"known"}`,
		service, time.Now().Format(time.RFC3339Nano), time.Now().Add(lasts).Format(time.RFC3339Nano))
}

func serve(t *testing.T, a *Alerting) string {
	t.Helper()
	srv := httptest.NewServer(a.API())
	t.Cleanup(srv.Close)
	return srv.URL
}

// A silence that was acknowledged keeps alerts from being delivered, also after a kill; when it is taken back they are delivered.
func TestSilences(t *testing.T) {
	s := newScene(t)
	first, stop := s.run()
	at := serve(t, first)
	code, body := ask(t, at, http.MethodPost, "/api/v2/silences", silenceOf("catalog", time.Hour))
	var made struct{ SilenceID string }
	if err := json.Unmarshal([]byte(body), &made); err != nil || code != http.StatusOK || made.SilenceID == "" {
		t.Fatalf("%d %s", code, body)
	}
	// What is on disk now is what a kill would leave.
	kept, err := os.ReadFile(filepath.Join(s.dir, "silences"))
	if err != nil || !bytes.Contains(kept, []byte(made.SilenceID)) {
		t.Fatalf("the silence is not on disk when it is acknowledged: %v", err)
	}
	stop()
	if err := os.WriteFile(filepath.Join(s.dir, "silences"), kept, 0o600); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, "*.tmp")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}

	s.fault(1)
	again, _ := s.run()
	at = serve(t, again)
	eventually(t, "it fires, silenced", func() bool { l := again.Alerts(); return len(l) == 1 && l[0].State == "firing" && l[0].Silenced })
	eventually(t, "the API says so", func() bool {
		_, body := ask(t, at, http.MethodGet, "/api/v2/alerts?active=false", "")
		return strings.Contains(body, `"silencedBy":["`+made.SilenceID) && strings.Contains(body, `"state":"suppressed"`)
	})
	select {
	case b := <-s.hook.bodies:
		t.Errorf("a silenced alert was delivered: %v", b)
	default:
	}
	if code, body := ask(t, at, http.MethodDelete, "/api/v2/silence/"+made.SilenceID, ""); code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	if got := s.hook.next(t); got["status"] != "firing" {
		t.Errorf("after the silence: %v", got)
	}
	if _, body := ask(t, at, http.MethodGet, "/api/v2/silence/"+made.SilenceID, ""); !strings.Contains(body, `"state":"expired"`) {
		t.Error(body)
	}
}

// Alerts of others are delivered as ours are.
func TestAlertsOfOthers(t *testing.T) {
	s := newScene(t)
	a, _ := s.run()
	at := serve(t, a)
	if code, body := ask(t, at, http.MethodPost, "/api/v2/alerts", `[{"labels":{"alertname":"DiskFull","service":"db"},"annotations":{"summary":"full"},"generatorURL":"http://prometheus/graph"}]`); code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	got := s.hook.next(t)
	one := got["alerts"].([]any)[0].(map[string]any)
	if got["status"] != "firing" || one["labels"].(map[string]any)["alertname"] != "DiskFull" {
		t.Errorf("%v", got)
	}
	if _, body := ask(t, at, http.MethodGet, "/api/v2/alerts/groups", ""); !strings.Contains(body, `"alertname":"DiskFull"`) {
		t.Error(body)
	}
}

func TestAPIErrors(t *testing.T) {
	s := newScene(t)
	a, stop := s.run()
	at := serve(t, a)
	for path, want := range map[string]int{"/api/v2/status": 200, "/api/v2/receivers": 200, "/api/v2/silences": 200, "/api/v2/alerts?filter=%7B": 400, "/api/v2/silence/x": 422, "/api/v2/nowhere": 404} {
		if code, body := ask(t, at, http.MethodGet, path, ""); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
	if code, body := ask(t, at, http.MethodPost, "/api/v2/silences", silenceOf("x", -time.Hour)); code != http.StatusBadRequest {
		t.Errorf("a silence that has ended: %d %s", code, body)
	}
	stop()
	if code, body := ask(t, at, http.MethodGet, "/api/v2/status", ""); code != http.StatusServiceUnavailable || !strings.Contains(body, "not running") {
		t.Errorf("%d %s", code, body)
	}
}
