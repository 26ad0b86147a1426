package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// clients post orders, several at once, and keep what they were answered.
type clients struct {
	http    *http.Client
	url     string
	posted  atomic.Int64 // answered for good
	refused atomic.Int64

	mu       sync.Mutex
	accepted map[string]bool // by order id: true for 201 and 200, false for 422
}

func newClients(address string, count int) *clients {
	return &clients{
		url:      "http://" + address + "/orders",
		http:     &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: count}},
		accepted: map[string]bool{},
	}
}

// post posts all orders and returns when each has its answer. Before each order it waits for the gate: see chaos.
func (c *clients) post(ctx context.Context, orders []Order, count int, gate func(ctx context.Context, order int) error) error {
	defer c.http.CloseIdleConnections()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan Order)
	var group sync.WaitGroup
	for range count {
		group.Go(func() {
			for order := range next {
				if err := c.postOne(ctx, order); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i, order := range orders {
		if err := gate(ctx, i); err != nil {
			cancel(err)
		}
		select {
		case next <- order:
		case <-ctx.Done():
		}
	}
	close(next)
	group.Wait()
	return context.Cause(ctx)
}

// retryLimit is how long a client sends one order again. Nothing here takes the order service away for as long.
const retryLimit = 30 * time.Second

// postOne sends the order until it gets an answer that says what became of it. It may be sent again because its id is
// the client's: the service places it once.
func (c *clients) postOne(ctx context.Context, order Order) error {
	body, err := json.Marshal(order)
	if err != nil {
		return err
	}
	began := time.Now()
	for pause := 50 * time.Millisecond; ; pause *= 2 {
		status, text, err := c.send(ctx, order.ID, body)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && (status == http.StatusCreated || status == http.StatusOK):
			c.note(order, true)
			return nil
		case err == nil && status == http.StatusUnprocessableEntity:
			c.note(order, false)
			return nil
		case err == nil && status < 500:
			return fmt.Errorf("order %s: the order service answered %d: %s", order.ID, status, text)
		case err == nil:
			err = fmt.Errorf("the order service answered %d: %s", status, text)
		}
		if time.Since(began) > retryLimit {
			return fmt.Errorf("order %s: given up after %v: %w", order.ID, retryLimit, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *clients) send(ctx context.Context, orderID string, body []byte) (status int, text string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Request-Id", requestID(orderID))
	answer, err := c.http.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(io.LimitReader(answer.Body, 1024))
	return answer.StatusCode, string(bytes.TrimSpace(said)), err
}

// requestID is the correlation id of everything that follows from posting the order.
func requestID(orderID string) string { return "req_" + orderID }

func (c *clients) note(order Order, accepted bool) {
	c.mu.Lock()
	c.accepted[order.ID] = accepted
	c.mu.Unlock()
	if !accepted {
		c.refused.Add(1)
	}
	c.posted.Add(1)
}
