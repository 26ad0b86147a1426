package memstore_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/sqlstore/storetest"
)

func TestMemstoreConforms(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Backend[*memstore.Tx] {
		store := memstore.New()
		var n atomic.Int64
		return storetest.Backend[*memstore.Tx]{
			Store:    store,
			Another:  func(*testing.T) storetest.Store[*memstore.Tx] { return store },
			Begin:    store.Begin,
			Commit:   func(ctx context.Context, tx *memstore.Tx) error { return tx.Commit(ctx) },
			Rollback: func(ctx context.Context, tx *memstore.Tx) error { return tx.Rollback(ctx) },
			Effect: func(ctx context.Context, tx *memstore.Tx, name string) error {
				return tx.Put(ctx, fmt.Sprint(n.Add(1)), name)
			},
			Effects: func(context.Context) (effects []string, err error) {
				for _, key := range store.Rows() {
					effects = append(effects, store.Row(key).(string))
				}
				return effects, nil
			},
		}
	})
}
