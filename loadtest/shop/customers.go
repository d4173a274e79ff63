package shop

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// Customers makes the requests that people make of the shop. Each request to web leads to CatalogPerVisit requests to catalog on average.
// Safe for concurrent use.
type Customers struct {
	base   string
	client *http.Client
}

// CatalogPerVisit is how many requests reach catalog per request of a customer, on average.
const CatalogPerVisit = 0.35*2 + 0.30*2 + 0.20*2

// NewCustomers sends to web at the address given (ip:port); their connections stay open.
func NewCustomers(web string) *Customers {
	return &Customers{base: "http://" + web, client: &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: 128, IdleConnTimeout: time.Minute},
	}}
}

// Close closes idle connections.
func (c *Customers) Close() { c.client.CloseIdleConnections() }

// Visit is one request: 35 % the home page, 30 % a product (one in fifty does not exist), 20 % a search, 11 % something into the cart, 4 %
// a purchase. An answer of 5xx, or none, is an error.
func (c *Customers) Visit(ctx context.Context, _ uint64) error {
	user := fmt.Sprintf("u%d", rand.IntN(500))
	method, path, body := http.MethodGet, "/?user="+user, ""
	switch p := rand.Float64(); {
	case p < 0.35:
	case p < 0.65:
		id := rand.IntN(Products) + 1
		if rand.IntN(50) == 0 {
			id += Products
		}
		path = fmt.Sprintf("/products/%d?user=%s", id, user)
	case p < 0.85:
		path = fmt.Sprintf("/search?q=%s&user=%s", strings.ToLower(nouns[rand.IntN(len(nouns))]), user)
	case p < 0.96:
		method, path, body = http.MethodPost, "/cart?user="+user, fmt.Sprintf(`{"item":%d}`, rand.IntN(Products)+1)
	default:
		method, path, body = http.MethodPost, "/checkout?user="+user, "{}"
	}
	return c.send(ctx, method, path, body)
}

// Hello asks web for its greeting, which needs no other service.
func (c *Customers) Hello(ctx context.Context, _ uint64) error {
	return c.send(ctx, http.MethodGet, "/hello", "")
}

func (c *Customers) send(ctx context.Context, method, path, body string) error {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "shop-customers/1")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode >= 500 {
		return fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return nil
}
