package client

import (
	"context"
	"errors"
	"fmt"
	"net/url"
)

// ErrNoController: nobody answers at the address of a controller.
var ErrNoController = errors.New("no controller answers")

// Controller reads one controller's admin address.
type Controller struct{ c *Client }

// NewController reads the controller whose admin address is base ("127.0.0.1:8644").
func NewController(base string) *Controller { return &Controller{New(base)} }

// Get reads a page of JSON, such as /status, /lint and /explain, into out. NotFound tells an answer of 404.
func (c *Controller) Get(ctx context.Context, path string, query url.Values, out any) error {
	err := c.c.get(ctx, path, query, out)
	var answer *Error
	switch {
	case errors.As(err, &answer):
		answer.Who = "controller"
	case errors.Is(err, ErrUnreachable):
		return fmt.Errorf("%w at %s", ErrNoController, c.c.base)
	}
	return err
}
