//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/tulle-mesh/tulle/internal/process"
)

// api is an HTTP server, by its base URL.
type api struct{ base string }

// maxBody bounds what is read of one answer.
const maxBody = 64 << 20

// do sends a request and returns status and body.
func do(req *http.Request) (int, []byte, error) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	return resp.StatusCode, b, err
}

// text is a page that must be there.
func (a api) text(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+path, nil)
	if err != nil {
		return "", err
	}
	status, body, err := do(req)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("GET %s: %d %.200s", path, status, body)
	}
	return string(body), err
}

// json decodes an answer that must have the status wanted.
func (a api) json(ctx context.Context, path string, status int, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+path, nil)
	if err != nil {
		return err
	}
	got, body, err := do(req)
	if err != nil {
		return err
	}
	if got != status {
		return fmt.Errorf("GET %s: status %d, want %d: %.200s", path, got, status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("GET %s: %w: %.200s", path, err, body)
	}
	return nil
}

// post sends JSON; the answer must be 200.
func (a api) post(ctx context.Context, path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.base+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	status, body, err := do(req)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("POST %s: %d %.200s", path, status, body)
	}
	return err
}

// await asks until the answer is nil or ctx ends; then the error is the last answer.
func await(ctx context.Context, ask func(context.Context) error) error {
	return process.Await(ctx, ask)
}
