package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// serverSettings are PostgreSQL's for every case and every side; the rest is as PostgreSQL ships it, with fsync,
// full_page_writes and synchronous_commit on. Checkpoints happen when a case asks for one, between measurements, and
// not in the middle of some round.
var serverSettings = [][2]string{
	{"shared_buffers", "1GB"},
	{"max_wal_size", "16GB"},
	{"checkpoint_timeout", "1h"},
	{"max_connections", "200"},
}

// servers are a PostgreSQL and a RabbitMQ of this process's own.
type servers struct {
	env      *harness.Env
	postgres *harness.PostgresServer
	rabbitmq *harness.RabbitMQServer
}

func startServers(ctx context.Context) (s servers, err error) {
	settings := []harness.Option{harness.Private()}
	for _, kv := range serverSettings {
		settings = append(settings, harness.Setting(kv[0], kv[1]))
	}
	env, err := harness.StartEnv(ctx, harness.Postgres(settings...), harness.RabbitMQ(harness.Private()))
	if err != nil {
		return s, err
	}
	return servers{env, env.Postgres, env.RabbitMQ}, nil
}

func (s servers) close() {
	if s.env != nil {
		s.env.Close()
	}
}

// lab is what a case works with: the two servers, a database of its own with Surepost's tables, and a connection to
// the broker for its topology.
type lab struct {
	options
	servers
	ownServers bool

	url    string // of the database
	pool   *pgxpool.Pool
	store  *pgxstore.Store
	box    *outbox.Outbox[pgx.Tx]
	broker *amqp091.Connection
}

// newLab starts what a case needs, or uses the servers that a test has started for all cases.
func newLab(ctx context.Context, o options) (l *lab, err error) {
	l = &lab{options: o}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if o.servers != nil {
		l.servers = *o.servers
	} else {
		l.ownServers = true
		if l.servers, err = startServers(ctx); err != nil {
			return l, err
		}
	}
	if l.url, l.pool, l.store, err = l.newDatabase(ctx, "bench"); err != nil {
		return l, err
	}
	if l.box, err = outbox.New(l.store, outbox.Config{Source: source}); err != nil {
		return l, err
	}
	l.broker, err = amqp091.Dial(l.rabbitmq.URL())
	return l, err
}

func (l *lab) close() {
	if l.broker != nil {
		l.broker.Close()
	}
	if l.store != nil {
		l.store.Close(context.Background())
	}
	if l.pool != nil {
		l.pool.Close()
	}
	if l.ownServers {
		l.servers.close()
	}
}

// newDatabase creates a database with Surepost's tables. The pool takes as many connections as any case has clients.
func (l *lab) newDatabase(ctx context.Context, name string) (string, *pgxpool.Pool, *pgxstore.Store, error) {
	url, err := l.postgres.CreateDatabase(ctx, name)
	if err != nil {
		return "", nil, nil, err
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return "", nil, nil, err
	}
	config.MaxConns = 40
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return "", nil, nil, err
	}
	store := pgxstore.New(pool)
	if _, err := store.Migrate(ctx); err != nil {
		pool.Close()
		return "", nil, nil, err
	}
	return url, pool, store, nil
}

// exec runs statements on the case's database, one by one.
func (l *lab) exec(ctx context.Context, statements ...string) error {
	return execAll(ctx, l.pool, statements...)
}

func execAll(ctx context.Context, pool *pgxpool.Pool, statements ...string) error {
	for _, sql := range statements {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%.60s…: %w", sql, err)
		}
	}
	return nil
}

// onChannel runs broker work on a channel of its own.
func (l *lab) onChannel(work func(ch *amqp091.Channel) error) error {
	ch, err := l.broker.Channel()
	if err != nil {
		return err
	}
	return errors.Join(work(ch), ch.Close())
}

// declare makes the exchange that the relay publishes to by default, and a durable queue that gets all its messages.
func (l *lab) declare(queue string, arguments amqp091.Table) error {
	return l.onChannel(func(ch *amqp091.Channel) error {
		if err := ch.ExchangeDeclare(exchange, "topic", true, false, false, false, nil); err != nil {
			return err
		}
		if _, err := ch.QueueDeclare(queue, true, false, false, false, arguments); err != nil {
			return err
		}
		return ch.QueueBind(queue, "#", exchange, false, nil)
	})
}

// empty checks that the queue holds what was published, no more and no less, and removes it.
func (l *lab) empty(queue string, want int) error {
	return l.onChannel(func(ch *amqp091.Channel) error {
		n, err := ch.QueuePurge(queue, false)
		if err == nil && n != want {
			err = fmt.Errorf("%d messages arrived, want %d", n, want)
		}
		return err
	})
}

// discard deletes the queue.
func (l *lab) discard(queue string) error {
	return l.onChannel(func(ch *amqp091.Channel) error {
		_, err := ch.QueueDelete(queue, false, false, false)
		return err
	})
}
