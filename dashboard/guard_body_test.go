package dashboard

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A sender that announces a body and stalls is let go; one that sends it all may wait for a slow answer.
func TestStalledBodyIsCutOff(t *testing.T) {
	defer func(d time.Duration) { bodyWithin = d }(bodyWithin)
	bodyWithin = 50 * time.Millisecond
	ended := make(chan error, 1)
	srv := httptest.NewServer(newGuard("127.0.0.1:0", nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		if err == nil { // longer than the deadline of the body
			select {
			case <-r.Context().Done():
				err = r.Context().Err()
			case <-time.After(4 * bodyWithin):
			}
		}
		ended <- err
	})))
	defer srv.Close()
	send := func(body string) (line string, err error) {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST /api/v1/query HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\n%s", body)
		select {
		case err = <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("the request still waits for its body")
		}
		line, _ = bufio.NewReader(c).ReadString('\n')
		return line, err
	}
	if _, err := send("que"); err == nil {
		t.Error("half a body was taken for all of it")
	}
	if line, err := send("query=1"); err != nil || !strings.Contains(line, "200") {
		t.Errorf("a whole body: %v, answer %q", err, line)
	}
}
