// Package postgres makes databases on a PostgreSQL that somebody else runs: copies of a database that is there, each with a login of
// its own. It takes them away again. Whatever it does may be interrupted, and done again.
package postgres

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"dayfly.dev/dayfly/internal/usererr"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Server is a PostgreSQL, and a login on it that may make databases and logins.
type Server struct {
	Host     string
	Port     uint16
	Username string
	Password string
	Database string // to which it connects when it makes others
	Plain    bool   // speak without TLS; else the server proves its name
	CA       []byte // whose certificates are good, as PEM; empty: the well-known authorities'
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	connectTime = 10 * time.Second
	mostMessage = 1 << 20 // bytes that a server may send at once; nothing large is ever asked for
)

// Address is where the server is.
func (s *Server) Address() string { return net.JoinHostPort(s.Host, strconv.Itoa(int(s.Port))) }

// Reach finds out whether the server lets its login in.
func (s *Server) Reach(ctx context.Context) error {
	return s.as(ctx, s.Database, func(*conn) error { return nil })
}

// Clone makes the database name, a copy of another one, and the login of the same name that owns it and all that is in it. If they
// are there already, the login has another password afterwards. Nobody else may connect to the database but whoever may to all.
func (s *Server) Clone(ctx context.Context, of, name, password string) error {
	return s.as(ctx, s.Database, func(c *conn) error {
		if err := c.login(name, password); err != nil {
			return err
		}
		if !c.some("select 1 from pg_database where datname = $1", name) {
			c.exec("create database " + quoted(name) + " template " + quoted(of) + " owner " + quoted(name))
		}
		c.exec("revoke all on database " + quoted(name) + " from public")
		if c.err != nil {
			return explain(c.err, of)
		}
		if err := s.as(ctx, name, func(c *conn) error { return c.own(name) }); err != nil {
			return err
		}
		tenant := *s
		tenant.Username, tenant.Password, tenant.Database = name, password, name
		return tenant.Reach(ctx) // whoever gets the login can use it
	})
}

// Drop takes away the database name and its login, whoever is connected to it, and sees that they are gone.
func (s *Server) Drop(ctx context.Context, name string) error {
	return s.as(ctx, s.Database, func(c *conn) error {
		c.exec("drop database if exists " + quoted(name) + " with (force)")
		c.exec("drop role if exists " + quoted(name))
		left := c.some("select 1 from pg_database where datname = $1 union all select 1 from pg_roles where rolname = $1", name)
		switch {
		case c.err != nil:
			return explain(c.err, name)
		case left:
			return fmt.Errorf("database %s was dropped, and is there all the same", name)
		}
		return nil
	})
}

// login makes the login, or gives it another password. Whoever makes databases for it must be one of its members.
func (c *conn) login(name, password string) error {
	verifier, err := scram(password)
	if err != nil {
		return err
	}
	verb := "create"
	if c.some("select 1 from pg_roles where rolname = $1", name) {
		verb = "alter"
	}
	c.exec(verb + " role " + quoted(name) + " login password '" + verifier + "'")
	if !c.some("select 1 from pg_roles where rolname = current_user and rolsuper") {
		c.exec("grant " + quoted(name) + " to current_user")
	}
	return explain(c.err, "")
}

// ownership has everything in a database that is not the server's own, nor an extension's, belong to one login. It is a block, which
// takes no parameters.
const ownership = `do $own$
declare
	change text;
begin
	for change in
		with mine as (select oid from pg_roles where rolname in ('%[1]s', 'pg_database_owner')),
		schemas as (select oid, nspname, nspowner from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'),
		part as (select classid, objid, deptype from pg_depend where deptype in ('e', 'a', 'i'))
		select format('alter schema %%I owner to %[1]s', nspname) from schemas
			where nspowner not in (select oid from mine) and not exists (select from part where classid = 'pg_namespace'::regclass and objid = schemas.oid and deptype = 'e')
		union all
		select format('alter table %%s owner to %[1]s', c.oid::regclass) from pg_class c
			where relnamespace in (select oid from schemas) and relowner not in (select oid from mine) and relkind in ('r', 'p', 'v', 'm', 'f', 'S')
			and not exists (select from part where classid = 'pg_class'::regclass and objid = c.oid and (deptype = 'e' or relkind = 'S'))
		union all
		select format('alter routine %%s owner to %[1]s', p.oid::regprocedure) from pg_proc p
			where pronamespace in (select oid from schemas) and proowner not in (select oid from mine)
			and not exists (select from part where classid = 'pg_proc'::regclass and objid = p.oid)
		union all
		select format('alter type %%s owner to %[1]s', t.oid::regtype) from pg_type t left join pg_class c on c.oid = typrelid
			where typnamespace in (select oid from schemas) and typowner not in (select oid from mine) and (typtype in ('e', 'd', 'r') or relkind = 'c')
			and not exists (select from part where classid = 'pg_type'::regclass and objid = t.oid)
	loop
		execute change;
	end loop;
end
$own$`

func (c *conn) own(name string) error {
	c.exec(fmt.Sprintf(ownership, name))
	return explain(c.err, name)
}

// conn is a connection, on which nothing more is done after something has failed.
type conn struct {
	*pgconn.PgConn
	ctx context.Context
	err error
}

func (c *conn) exec(sql string) {
	if c.err == nil {
		_, c.err = c.Exec(c.ctx, sql).ReadAll()
	}
}

// some says whether a query finds anything.
func (c *conn) some(sql string, args ...string) bool {
	if c.err != nil {
		return false
	}
	var values [][]byte
	for _, a := range args {
		values = append(values, []byte(a))
	}
	r := c.ExecParams(c.ctx, sql, values, nil, nil, nil).Read()
	c.err = r.Err
	return len(r.Rows) > 0
}

// as does something on a connection to a database.
func (s *Server) as(ctx context.Context, database string, do func(*conn) error) error {
	config, err := pgconn.ParseConfig("sslmode=disable") // the rest is not of a text: it may hold anything
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", s.Address(), err)
	}
	config.Host, config.Port, config.User, config.Password, config.Database = s.Host, s.Port, s.Username, s.Password, database
	config.Fallbacks, config.ConnectTimeout, config.DialFunc = nil, connectTime, s.Dial
	config.RuntimeParams = map[string]string{"application_name": "dayfly"}
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		f := pgproto3.NewFrontend(r, w)
		f.SetMaxBodyLen(mostMessage)
		return f
	}
	if !s.Plain {
		config.TLSConfig = &tls.Config{ServerName: s.Host, MinVersion: tls.VersionTLS12}
		if len(s.CA) > 0 {
			config.TLSConfig.RootCAs = x509.NewCertPool()
			if !config.TLSConfig.RootCAs.AppendCertsFromPEM(s.CA) {
				return usererr.New(usererr.Refused, "", "the authority of %s is no certificate in PEM form", s.Address())
			}
		}
	}
	c, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return s.unreachable(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = c.Close(ctx) // what was to be done is done, or has failed
	}()
	return do(&conn{PgConn: c, ctx: ctx})
}

// unreachable says why nobody could connect. What pgconn says of it names the user and all addresses, and more than once.
func (s *Server) unreachable(err error) error {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return usererr.New(usererr.Forbidden, "mend the Secret", "the server %s does not let %s in: %s", s.Address(), s.Username, refused.Message)
	}
	if u, ok := errors.AsType[*usererr.Error](err); ok {
		return u
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return usererr.New(usererr.Failed, "", "the server %s cannot be reached: %s", s.Address(), err)
}

// explain says what the server's refusal means.
func explain(err error, database string) error {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	switch refused.Code {
	case "55006": // object_in_use
		return usererr.New(usererr.Failed, "end its connections, and let nobody connect: ALTER DATABASE "+quoted(database)+" ALLOW_CONNECTIONS false",
			"database %s is in use, and is copied only while nobody is connected to it", database)
	case "3D000": // invalid_catalog_name
		return usererr.New(usererr.NotFound, "", "the server has no database %s", database)
	case "42501": // insufficient_privilege
		return usererr.New(usererr.Forbidden, "the login in the Secret needs CREATEDB and CREATEROLE, and must own the database and what is in it", "%s", refused.Message)
	}
	return usererr.New(usererr.Failed, "", "%s", refused.Message)
}

// quoted is a name as SQL has it.
func quoted(name string) string {
	return `"` + strings.ReplaceAll(strings.ReplaceAll(name, "\x00", ""), `"`, `""`) + `"`
}

// scram is what a server keeps of a password (RFC 5803), so that the password itself is never sent, nor in its log.
func scram(password string) (string, error) {
	const rounds = 4096
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	salted, err := pbkdf2.Key(sha256.New, password, salt, rounds, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("making a password: %w", err)
	}
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", rounds, encode(salt), encode(stored[:]), encode(mac("Server Key"))), nil
}
