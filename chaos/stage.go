package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// stage is what a run plays on: the servers, the processes, and the network between them.
type stage struct {
	options
	env                *harness.Env
	postgres, rabbitmq *harness.Power // nil where a server isn't ours alone
	pool               *pgxpool.Pool  // past the proxies
	store              *pgxstore.Store
	box                *outbox.Outbox[pgx.Tx]
	links              map[string]*harness.Proxy // by "process>server"
	processes          map[string]*process
	folder             string
	tally              tally
}

// openStage starts the servers, makes the tables, and puts a proxy before each process. Nothing runs yet.
func openStage(ctx context.Context, o options, folder string, private bool) (st *stage, err error) {
	st = &stage{options: o, folder: folder, links: map[string]*harness.Proxy{}, processes: map[string]*process{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.close())
		}
	}()
	var alone []harness.Option
	if private {
		alone = append(alone, harness.Private()) // it syncs to disk: what it confirmed survives a crash
	}
	if st.env, err = harness.StartEnv(ctx, harness.Postgres(alone...), harness.RabbitMQ(alone...)); err != nil {
		return st, err
	}
	if private {
		if st.postgres, err = st.env.Postgres.Power(); err != nil {
			return st, err
		}
		if st.rabbitmq, err = st.env.RabbitMQ.Power(); err != nil {
			return st, err
		}
	}
	if err := st.prepareDatabase(ctx); err != nil {
		return st, err
	}
	for name, r := range roles {
		p := &process{name: name, log: filepath.Join(folder, name+".log")}
		p.env = surroundings{Name: name, Rate: o.rate, Folder: folder}
		for _, has := range planted[o.planted] {
			if has == name {
				p.env.Planted = o.planted
			}
		}
		db, err := st.link(name+">"+anyDatabase, st.env.Postgres.URL())
		if err != nil {
			return st, err
		}
		p.env.Postgres = withParameters(db, "application_name", name, "connect_timeout", databaseDialSeconds)
		if r.broker {
			if p.env.AMQP, err = st.link(name+">"+anyBroker, st.env.RabbitMQ.URL()); err != nil {
				return st, err
			}
		}
		st.processes[name] = p
	}
	return st, nil
}

func (st *stage) prepareDatabase(ctx context.Context) (err error) {
	own := withParameters(st.env.Postgres.URL(), "application_name", "chaos", "connect_timeout", databaseDialSeconds)
	if st.pool, err = openPool(ctx, own, 8); err != nil {
		return err
	}
	st.store = pgxstore.New(st.pool)
	if _, err := st.store.Migrate(ctx); err != nil {
		return err
	}
	if st.box, err = outbox.New(st.store, outbox.Config{Source: "shop"}); err != nil {
		return err
	}
	tables := ledgerTables
	if st.planted == "no-row-lock" {
		tables += "\nCREATE SEQUENCE chaos_planted;"
	}
	_, err = st.pool.Exec(ctx, tables)
	return err
}

// link opens a proxy, and returns the server's address through it.
func (st *stage) link(name, server string) (address string, err error) {
	proxy, err := harness.OpenProxy(server)
	if err != nil {
		return "", err
	}
	st.links[name] = proxy
	return proxy.URL(), nil
}

func withParameters(address string, pairs ...string) string {
	u, err := url.Parse(address)
	if err != nil {
		panic(err) // the harness made it
	}
	query := u.Query()
	for i := 0; i < len(pairs); i += 2 {
		query.Set(pairs[i], pairs[i+1])
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// raise starts the processes: producers last, when everybody is there to hear of their events.
func (st *stage) raise(ctx context.Context) error {
	for _, group := range [][]string{{billing, shipping, audit}, {"relay-1", "relay-2", "relay-3"}, producers} {
		for _, name := range group {
			if err := st.processes[name].start(); err != nil {
				return err
			}
		}
		for _, name := range group {
			if err := st.processes[name].awaitReady(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

var producers = []string{"producer-go", "producer-sql"}

// stop asks processes to finish what they have begun, and waits for their ends.
func (st *stage) stop(ctx context.Context, names ...string) error {
	ended := make(chan error)
	for _, name := range names {
		go func() { ended <- st.processes[name].stop(ctx) }()
	}
	var errs []error
	for range names {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}

// close ends everything that is left.
func (st *stage) close() error {
	for _, p := range st.processes {
		p.end()
	}
	if st.pool != nil {
		if st.store != nil {
			closing, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			st.store.Close(closing)
			cancel()
		}
		st.pool.Close()
	}
	for _, proxy := range st.links {
		_ = proxy.Close()
	}
	if st.env == nil {
		return nil
	}
	return st.env.Close()
}

// linksOf returns the proxies that a fault's target stands for.
func (st *stage) linksOf(target string) (links []*harness.Proxy) {
	process, server, _ := strings.Cut(target, ">")
	for name, proxy := range st.links {
		if name == target || process == "all" && strings.HasSuffix(name, ">"+server) {
			links = append(links, proxy)
		}
	}
	return links
}

// counts sums up what the processes tell.
func (st *stage) counts() (written, published, handled, copies int64) {
	for name, p := range st.processes {
		c := p.count()
		switch {
		case strings.HasPrefix(name, "producer"):
			written += c.Done
		case strings.HasPrefix(name, "relay"):
			published += c.Done
		default:
			handled += c.Done
			copies += c.Copies
		}
	}
	return written, published, handled, copies
}

func (st *stage) progress() string {
	written, published, handled, copies := st.counts()
	return fmt.Sprintf("%d faults · %d orders' events · %d published · %d handled · %d copies dropped",
		st.tally.total(), written, published, handled, copies)
}
