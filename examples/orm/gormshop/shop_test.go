package gormshop

import (
	"database/sql"
	"errors"
	"strings"
	"testing"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/examples/orm/internal/shoptest"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore"
)

func open(t *testing.T, config gorm.Config) (*shoptest.Database, *gorm.DB, *Shop) {
	t.Helper()
	database := shoptest.New(t)
	config.Logger = logger.Discard
	db, err := gorm.Open(postgres.New(postgres.Config{Conn: database.DB}), &config)
	if err != nil {
		t.Fatal(err)
	}
	shop, err := New(db)
	if err != nil {
		t.Fatal(err)
	}
	return database, db, shop
}

// modes are the settings of gorm that change what a transaction is made of.
var modes = map[string]gorm.Config{
	"default":                   {},
	"prepared statements":       {PrepareStmt: true},
	"no default transaction":    {SkipDefaultTransaction: true},
	"no nested transactions":    {DisableNestedTransaction: true},
	"both without and prepared": {SkipDefaultTransaction: true, PrepareStmt: true},
}

func TestAnOrderAndItsEventAreCommittedTogether(t *testing.T) {
	t.Parallel()
	for name, config := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, _, shop := open(t, config)
			for _, id := range []string{"o-1", "o-2"} {
				if err := shop.PlaceOrder(t.Context(), Order{ID: id, Customer: "c-1", Quantity: 3}); err != nil {
					t.Fatal(err)
				}
			}
			database.RequireOrders(t, "o-1", "o-2")
		})
	}
}

func TestARefusedOrderLeavesNoEvent(t *testing.T) {
	t.Parallel()
	for name, config := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, _, shop := open(t, config)
			if err := shop.PlaceOrder(t.Context(), Order{ID: "o-1", Customer: "c-1", Quantity: 101}); !errors.Is(err, ErrTooMany) {
				t.Fatalf("%v, want ErrTooMany", err)
			}
			database.RequireOrders(t)
		})
	}
}

// A nested transaction is a savepoint: what fails in it takes its own event along and no other.
func TestAFailedNestedTransactionTakesItsEventAlong(t *testing.T) {
	t.Parallel()
	for _, prepared := range []bool{false, true} {
		database, db, shop := open(t, gorm.Config{PrepareStmt: prepared})
		err := db.WithContext(t.Context()).Transaction(func(tx *gorm.DB) error {
			if err := shop.placeOrder(t.Context(), tx, Order{ID: "o-1", Customer: "c-1", Quantity: 1}); err != nil {
				return err
			}
			err := tx.Transaction(func(nested *gorm.DB) error {
				return shop.placeOrder(t.Context(), nested, Order{ID: "o-2", Customer: "c-1", Quantity: 101})
			})
			if !errors.Is(err, ErrTooMany) {
				t.Errorf("%v, want ErrTooMany", err)
			}
			return shop.placeOrder(t.Context(), tx, Order{ID: "o-3", Customer: "c-1", Quantity: 1})
		})
		if err != nil {
			t.Fatal(err)
		}
		database.RequireOrders(t, "o-1", "o-3")
	}
}

func TestADatabaseHandleOutsideOfATransactionIsRefused(t *testing.T) {
	t.Parallel()
	for _, config := range []gorm.Config{{}, {PrepareStmt: true}} {
		database, db, shop := open(t, config)
		err := shop.placeOrder(t.Context(), db, Order{ID: "o-1", Customer: "c-1", Quantity: 1})
		if err == nil || !strings.Contains(err.Error(), "isn't in a transaction") {
			t.Errorf("%v, want an error that says that there is no transaction", err)
		}
		err = db.Transaction(func(tx *gorm.DB) error {
			return shop.placeOrder(t.Context(), tx.Session(&gorm.Session{DryRun: true}), Order{ID: "o-1", Customer: "c-1", Quantity: 1})
		})
		if err == nil || !strings.Contains(err.Error(), "DryRun") {
			t.Errorf("%v, want an error that names DryRun", err)
		}
		database.RequireOrders(t)
	}
}

// hooked is an order whose hook writes the event.
type hooked Order

func (hooked) TableName() string { return "orders" }

func (o *hooked) AfterCreate(tx *gorm.DB) error {
	box, err := outbox.New(sqlstore.New(nil), outbox.Config{Source: "shop"})
	if err != nil {
		return err
	}
	inTx, err := sqlTx(tx)
	if err != nil {
		return err
	}
	return box.Write(tx.Statement.Context, inTx, surepost.Event{Type: "OrderPlaced", Key: o.Customer, Data: o})
}

// A hook is in the transaction that gorm opens for every write; without that one, and without the caller's, there is
// nothing to write in, and the error takes no half of the work with it.
func TestAHookWritesInTheTransactionThatItRunsIn(t *testing.T) {
	t.Parallel()
	for _, prepared := range []bool{false, true} {
		database, db, _ := open(t, gorm.Config{PrepareStmt: prepared})
		if err := db.WithContext(t.Context()).Create(&hooked{ID: "o-1", Customer: "c-1"}).Error; err != nil {
			t.Fatal(err)
		}
		if err := db.WithContext(t.Context()).Create(&[]hooked{{ID: "o-2"}, {ID: "o-1"}}).Error; err == nil {
			t.Error("an order was placed twice")
		}
		database.RequireOrders(t, "o-1")

		without := db.Session(&gorm.Session{SkipDefaultTransaction: true, Context: t.Context()})
		err := without.Create(&hooked{ID: "o-3", Customer: "c-1"}).Error
		if err == nil || !strings.Contains(err.Error(), "isn't in a transaction") {
			t.Errorf("%v, want an error that says that there is no transaction", err)
		}
		// The row was its own transaction and is there: the reason not to write events in hooks without one.
		if err := without.Where("id = ?", "o-3").Delete(&hooked{}).Error; err != nil {
			t.Fatal(err)
		}
		err = without.Transaction(func(tx *gorm.DB) error { return tx.Create(&hooked{ID: "o-4", Customer: "c-1"}).Error })
		if err != nil {
			t.Fatal(err)
		}
		database.RequireOrders(t, "o-1", "o-4")
	}
}

// The transaction that gorm's Begin gives to the caller is as good.
func TestATransactionBegunByHandWorks(t *testing.T) {
	t.Parallel()
	database, db, shop := open(t, gorm.Config{})
	tx := db.WithContext(t.Context()).Begin(&sql.TxOptions{Isolation: sql.LevelSerializable})
	if err := shop.placeOrder(t.Context(), tx, Order{ID: "o-1", Customer: "c-1", Quantity: 1}); err != nil {
		t.Fatal(err)
	}
	database.RequireOrders(t) // nobody sees it yet
	if err := tx.Commit().Error; err != nil {
		t.Fatal(err)
	}
	database.RequireOrders(t, "o-1")
}
