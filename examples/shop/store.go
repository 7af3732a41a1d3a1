package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// store is where orders are kept: in memory, or in PostgreSQL where DATABASE_URL says so.
type store interface {
	add(ctx context.Context, order Order) error
	// newest returns at most n orders, the newest first, and how many there are in all.
	newest(ctx context.Context, n int) ([]Order, int, error)
}

// memory keeps the last orders. They are gone with the process.
type memory struct {
	mu     sync.Mutex
	placed []Order // oldest first
}

func (m *memory) add(_ context.Context, order Order) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.placed = append(m.placed, order)
	if extra := len(m.placed) - maxOrders; extra > 0 {
		m.placed = slices.Delete(m.placed, 0, extra)
	}
	return nil
}

func (m *memory) newest(_ context.Context, n int) ([]Order, int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := slices.Clone(m.placed[max(0, len(m.placed)-n):])
	slices.Reverse(out)
	return out, len(m.placed), nil
}

// connectTimeout is for a database that is busy; one that is asked already answers at once.
const connectTimeout = 5 * time.Second

// database keeps orders in PostgreSQL.
type database struct{ pool *pgxpool.Pool }

// openDatabase connects when it is first asked. The password is libpq's own setting, PGPASSWORD.
func openDatabase(url string) (*database, error) {
	if url == "" {
		return nil, errors.New("DATABASE_URL is not set")
	}
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL is no address of a database, such as postgres://shop@orders-database/shop") // the error may hold a password
	}
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	return &database{pool}, nil
}

func (d *database) add(ctx context.Context, o Order) error {
	_, err := d.pool.Exec(ctx, `insert into orders (id, product, quantity, status, placed) values ($1, $2, $3, $4, $5)`,
		o.ID, o.Product, o.Quantity, o.Status, o.Placed)
	return err
}

func (d *database) newest(ctx context.Context, n int) ([]Order, int, error) {
	var total int
	if err := d.pool.QueryRow(ctx, `select count(*) from orders`).Scan(&total); err != nil {
		return nil, 0, err
	}
	rows, err := d.pool.Query(ctx, `select id, product, quantity, status, placed from orders order by placed desc, id limit $1`, n)
	if err != nil {
		return nil, 0, err
	}
	orders, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o Order, err error) {
		err = row.Scan(&o.ID, &o.Product, &o.Quantity, &o.Status, &o.Placed)
		return o, err
	})
	return orders, total, err
}

//go:embed migrate.sql
var migrations string

// migrate brings a database to what this version of the shop expects of it. It may be done again.
func migrate(ctx context.Context, url string) error {
	d, err := openDatabase(url)
	if err != nil {
		return err
	}
	defer d.pool.Close()
	if _, err := d.pool.Exec(ctx, migrations); err != nil {
		return fmt.Errorf("migrating the database: %w", err)
	}
	return nil
}
