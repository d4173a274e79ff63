package shop

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/internal/gen/shopv1"
)

// Products is how many products exist: ids 1 to Products. Others are answered 404.
const Products = 400

type product struct {
	ID       int     `json:"id"`
	Name     string  `json:"name"`
	Category string  `json:"category"`
	Text     string  `json:"text,omitempty"`
	Price    float64 `json:"price,omitempty"`
	Currency string  `json:"currency,omitempty"`
	Stock    *int    `json:"stock,omitempty"`
}

var (
	adjectives = []string{"Oak", "Linen", "Copper", "Blue", "Folding", "Quiet", "Round", "Small", "Winter", "Paper"}
	nouns      = []string{"Chair", "Lamp", "Kettle", "Table", "Shelf", "Blanket", "Clock", "Mug", "Mirror", "Basket"}
	categories = []string{"living", "kitchen", "office", "garden"}
)

func describe(id int) product {
	return product{
		ID:       id,
		Name:     adjectives[id%len(adjectives)] + " " + nouns[id/len(adjectives)%len(nouns)],
		Category: categories[id%len(categories)],
	}
}

// routes is the one table of who answers what over HTTP; register is that of gRPC.
func (s *server) routes() map[string]work {
	switch s.svc.Name {
	case "web":
		return map[string]work{
			"GET /{$}":           s.webHome,
			"GET /products/{id}": s.webProduct,
			"GET /search":        s.webSearch,
			"POST /cart":         s.webCart,
			"POST /checkout":     s.webCheckout,
			"GET /hello":         s.webHello,
		}
	case "catalog":
		return map[string]work{
			"GET /products":      s.catalogList,
			"GET /products/{id}": s.catalogProduct,
			"GET /categories":    s.catalogCategories,
		}
	case "search":
		return map[string]work{"GET /search": s.search}
	case "cart":
		return map[string]work{"POST /items": s.cartAdd, "GET /items": s.cartList, "DELETE /items": s.cartDrop}
	case "checkout":
		return map[string]work{"POST /orders": s.checkoutOrder}
	case "inventory":
		return map[string]work{"GET /stock/{id}": s.stock, "POST /reservations": s.reserve}
	case "payments":
		return map[string]work{"POST /payments": s.pay}
	case "recommendations":
		return map[string]work{"GET /for/{id}": s.recommend}
	case "bank":
		return map[string]work{"POST /transfers": s.transfer}
	}
	return nil
}

// web: the only service that customers reach.

func (s *server) webHome(ctx context.Context, r *http.Request) (int, any, error) {
	var (
		visits string
		list   []product
		cats   []string
	)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { visits, err = s.sessions.ask(ctx, "TOUCH "+user(r)); return })
	g.Go(func() error { return s.call.get(ctx, "catalog", "/products?page=1", &list) })
	g.Go(func() error { return s.call.get(ctx, "catalog", "/categories", &cats) })
	err := g.Wait()
	return http.StatusOK, map[string]any{"visits": visits, "products": list, "categories": cats}, err
}

func (s *server) webProduct(ctx context.Context, r *http.Request) (int, any, error) {
	id := r.PathValue("id")
	var p product
	if err := s.call.get(ctx, "catalog", "/products/"+id, &p); err != nil {
		return 0, nil, err
	}
	var more []product
	if err := s.call.get(ctx, "recommendations", "/for/"+id, &more); err != nil {
		more = nil // a page without recommendations is still a page
	}
	return http.StatusOK, map[string]any{"product": p, "more": more}, nil
}

func (s *server) webSearch(ctx context.Context, r *http.Request) (int, any, error) {
	var found map[string]any
	err := s.call.get(ctx, "search", "/search?q="+r.URL.Query().Get("q"), &found)
	return http.StatusOK, found, err
}

func (s *server) webCart(ctx context.Context, r *http.Request) (int, any, error) {
	var in map[string]any
	if err := readJSON(r, &in); err != nil {
		return 0, nil, err
	}
	in["user"] = user(r)
	var out map[string]any
	err := s.call.post(ctx, "cart", "/items", in, &out)
	return http.StatusCreated, out, err
}

func (s *server) webCheckout(ctx context.Context, r *http.Request) (int, any, error) {
	var out map[string]any
	err := s.call.post(ctx, "checkout", "/orders", map[string]any{"user": user(r)}, &out)
	return http.StatusCreated, out, err
}

func (s *server) webHello(context.Context, *http.Request) (int, any, error) {
	return http.StatusOK, map[string]string{"hello": "this is the shop"}, nil
}

// catalog: three endpoints, one of which fails on demand.

func (s *server) catalogList(ctx context.Context, r *http.Request) (int, any, error) {
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	list := make([]product, 12)
	ids := make([]int32, len(list))
	for i := range list {
		list[i] = describe((max(page, 1)*len(list)+i)%Products + 1)
		ids[i] = int32(list[i].ID)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout) // of the whole stream
	defer cancel()
	const method = "pricing's list"
	prices, err := s.call.pricing.List(ctx, &shopv1.ListPricesRequest{Products: ids})
	if err != nil {
		return 0, nil, err
	}
	for i := range list {
		p, err := prices.Recv()
		if err != nil {
			return 0, nil, refine(method, err)
		}
		list[i].Price, list[i].Currency = p.GetAmount(), p.GetCurrency()
	}
	switch _, err := prices.Recv(); { // the status, without which the call has not ended
	case err == nil:
		return 0, nil, errors.New(method + ": more prices than products")
	case !errors.Is(err, io.EOF):
		return 0, nil, refine(method, err)
	}
	return http.StatusOK, list, nil
}

func (s *server) catalogProduct(ctx context.Context, r *http.Request) (int, any, error) {
	id, err := productID(r.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	p := describe(id)
	p.Text = strings.Repeat("A fine "+p.Name+" made to last. ", 12)
	if r.URL.Query().Get("brief") != "" {
		return http.StatusOK, p, nil
	}
	var (
		price *shopv1.Price
		stock struct{ Stock int }
	)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		price, err = s.call.pricing.Get(ctx, &shopv1.GetPriceRequest{Product: int32(id)})
		return err
	})
	g.Go(func() error { return s.call.get(ctx, "inventory", "/stock/"+strconv.Itoa(id), &stock) })
	if err := g.Wait(); err != nil {
		return 0, nil, err
	}
	p.Price, p.Currency, p.Stock = price.GetAmount(), price.GetCurrency(), &stock.Stock
	return http.StatusOK, p, nil
}

func (s *server) catalogCategories(context.Context, *http.Request) (int, any, error) {
	return http.StatusOK, categories, nil
}

func (s *server) search(ctx context.Context, r *http.Request) (int, any, error) {
	q := r.URL.Query().Get("q")
	page := int(hash(q))%20 + 1
	var (
		list []product
		cats []string
	)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.call.get(ctx, "catalog", "/products?page="+strconv.Itoa(page), &list) })
	g.Go(func() error { return s.call.get(ctx, "catalog", "/categories", &cats) })
	if err := g.Wait(); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"query": q, "hits": list, "facets": cats}, nil
}

// recommendations forgets traceparent: its own call begins a new trace.
func (s *server) recommend(ctx context.Context, r *http.Request) (int, any, error) {
	id, err := productID(r.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	var p product
	if err := s.call.get(ctx, "catalog", "/products/"+strconv.Itoa((id*7)%Products+1)+"?brief=1", &p); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, []product{p, describe((id*11)%Products + 1)}, nil
}

func (s *server) cartAdd(ctx context.Context, r *http.Request) (int, any, error) {
	var in struct {
		User string
		Item int
	}
	if err := readJSON(r, &in); err != nil {
		return 0, nil, err
	}
	if err := s.call.get(ctx, "inventory", "/stock/"+strconv.Itoa(in.Item), nil); err != nil {
		return 0, nil, err
	}
	n, err := s.sessions.ask(ctx, fmt.Sprintf("PUT %s %d", orGuest(in.User), in.Item))
	return http.StatusCreated, map[string]string{"items": n}, err
}

func (s *server) cartList(ctx context.Context, r *http.Request) (int, any, error) {
	items, err := s.sessions.ask(ctx, "GET "+orGuest(r.URL.Query().Get("user")))
	return http.StatusOK, map[string]string{"items": items}, err
}

func (s *server) cartDrop(ctx context.Context, r *http.Request) (int, any, error) {
	_, err := s.sessions.ask(ctx, "DROP "+orGuest(r.URL.Query().Get("user")))
	return http.StatusOK, map[string]string{}, err
}

func (s *server) checkoutOrder(ctx context.Context, r *http.Request) (int, any, error) {
	var in struct{ User string }
	if err := readJSON(r, &in); err != nil {
		return 0, nil, err
	}
	var basket struct{ Items string }
	if err := s.call.get(ctx, "cart", "/items?user="+orGuest(in.User), &basket); err != nil {
		return 0, nil, err
	}
	if err := s.call.post(ctx, "inventory", "/reservations", basket, nil); err != nil {
		return 0, nil, err
	}
	var paid map[string]any
	if err := s.call.post(ctx, "payments", "/payments", map[string]any{"user": in.User, "amount": 10 + len(basket.Items)}, &paid); err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, map[string]any{"order": hash(in.User + basket.Items), "payment": paid}, nil
}

func (s *server) stock(_ context.Context, r *http.Request) (int, any, error) {
	id, err := productID(r.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]int{"id": id, "stock": id * 13 % 50}, nil
}

func (s *server) reserve(_ context.Context, r *http.Request) (int, any, error) {
	var in struct{ Items string }
	if err := readJSON(r, &in); err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, map[string]any{"reserved": in.Items}, nil
}

func (s *server) pay(ctx context.Context, r *http.Request) (int, any, error) {
	var in struct {
		User   string
		Amount float64
	}
	if err := readJSON(r, &in); err != nil {
		return 0, nil, err
	}
	if hash(in.User)%25 == 0 {
		return http.StatusPaymentRequired, problem{"card declined"}, nil
	}
	if err := s.call.post(ctx, "bank", "/transfers", in, nil); err != nil {
		return 0, nil, err
	}
	if _, err := s.call.ledger.Book(ctx, &shopv1.BookRequest{User: in.User, Amount: in.Amount}); err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, map[string]any{"paid": in.Amount}, nil
}

func (s *server) transfer(_ context.Context, r *http.Request) (int, any, error) {
	var in map[string]any
	if err := readJSON(r, &in); err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, map[string]any{"transfer": "accepted"}, nil
}

func productID(text string) (int, error) {
	id, err := strconv.Atoi(text)
	if err != nil || id < 1 || id > Products {
		return 0, fmt.Errorf("product %q: %w", text, errNotFound)
	}
	return id, nil
}

// user is who the request says it is from, made safe for the sessions protocol.
func user(r *http.Request) string { return orGuest(r.URL.Query().Get("user")) }

func orGuest(name string) string {
	if name == "" || len(name) > 32 || strings.ContainsAny(name, " \t\r\n") {
		return "guest"
	}
	return name
}

func hash(s string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(s))
	return h.Sum32()
}
