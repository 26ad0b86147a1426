package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/cmd/surepost/internal/cli"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// authority is a certificate authority of a test's own.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	a := &authority{t: t, key: key, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &key.PublicKey, key)
	must(t, err)
	a.cert, err = x509.ParseCertificate(der)
	must(t, err)
	a.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

// issue makes a certificate for a server at the address, or for a client of the name.
func (a *authority) issue(name string, address net.IP) (cert, key string) {
	a.t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(a.t, err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if address != nil {
		template.IPAddresses, template.ExtKeyUsage = []net.IP{address}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &own.PublicKey, a.key)
	must(a.t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(own)
	must(a.t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
}

// secrets is a folder as Kubernetes and Vault's agent keep it: a file is replaced as a whole.
type secrets struct {
	t      *testing.T
	folder string
}

func (s secrets) path(name string) string { return filepath.Join(s.folder, name) }

func (s secrets) put(name, content string) string {
	s.t.Helper()
	path := s.path(name)
	write(s.t, path+".new", content)
	must(s.t, os.Rename(path+".new", path))
	return path
}

var loopback = net.IPv4(127, 0, 0, 1)

// guarded is a PostgreSQL that wants TLS of everybody but its administrator, and of the role certified a certificate.
type guarded struct {
	t      *testing.T
	server *harness.PostgresServer
	admin  *pgxpool.Pool
	host   string
	name   string // the database's
}

func openGuarded(t *testing.T, env *harness.Env, ca *authority) *guarded {
	t.Helper()
	u, err := url.Parse(env.Postgres.URL())
	must(t, err)
	g := &guarded{t: t, server: env.Postgres, host: u.Host, name: strings.TrimPrefix(u.Path, "/")}
	g.admin, err = pgxpool.New(t.Context(), u.String())
	must(t, err)
	t.Cleanup(g.admin.Close)
	g.exec("CREATE ROLE relay LOGIN PASSWORD 'first'", "CREATE ROLE certified LOGIN IN ROLE relay", "ALTER DATABASE "+g.name+" OWNER TO relay")
	g.file("pg_hba.conf", "host all postgres all password\nhostssl all certified all cert\nhostssl all relay all password\n")
	g.certify(ca)
	g.exec("ALTER SYSTEM SET ssl_cert_file = 'test.crt'", "ALTER SYSTEM SET ssl_key_file = 'test.key'", "ALTER SYSTEM SET ssl_ca_file = 'test-ca.crt'", "ALTER SYSTEM SET ssl = on")
	g.reload(ca)
	return g
}

func (g *guarded) exec(statements ...string) {
	g.t.Helper()
	for _, s := range statements {
		_, err := g.admin.Exec(g.t.Context(), s)
		must(g.t, err)
	}
}

// file writes a file of the server's own, into its data folder, wherever that is.
func (g *guarded) file(name, content string) {
	g.t.Helper()
	lines := strings.ReplaceAll(strings.TrimSpace(content), "'", "''")
	g.exec(fmt.Sprintf("COPY (SELECT unnest(string_to_array('%s', E'\\n'))) TO PROGRAM 'umask 077; cat >%s'", lines, name))
}

// certify gives the server a certificate, and the authority that clients' must be of.
func (g *guarded) certify(ca *authority) {
	g.t.Helper()
	cert, key := ca.issue("the server", loopback)
	g.file("test.crt", cert)
	g.file("test.key", key)
	g.file("test-ca.crt", ca.pem)
}

// reload makes the server read its files, and waits until it shows a certificate of the authority.
func (g *guarded) reload(ca *authority) {
	g.t.Helper()
	g.exec("SELECT pg_reload_conf()")
	root := secrets{g.t, g.t.TempDir()}.put("ca", ca.pem)
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		conn, err := pgx.Connect(g.t.Context(), g.url("postgres")+"?sslmode=verify-full&sslrootcert="+url.QueryEscape(root))
		if err == nil {
			conn.Close(g.t.Context())
			g.t.Fatal("the server asks for no password")
		}
		if strings.Contains(err.Error(), "password") {
			return // it has asked for the one that we didn't give
		}
		if time.Now().After(deadline) {
			g.t.Fatal(err)
		}
	}
}

func (g *guarded) url(user string) string { return "postgres://" + user + "@" + g.host + "/" + g.name }

// disconnect ends all connections of the roles.
func (g *guarded) disconnect() {
	g.t.Helper()
	g.exec("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename IN ('relay', 'certified')")
}

// arrives waits until the role is connected.
func (g *guarded) arrives(role string) {
	g.t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		var n int
		must(g.t, g.admin.QueryRow(g.t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", role).Scan(&n))
		if n > 0 {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("%s doesn't come back", role)
		}
	}
}

// guardedBroker starts RabbitMQ with a TLS port that wants certificates of its clients. It must be of this machine: a container
// would have neither the files nor the port.
func guardedBroker(t *testing.T, ca *authority) (service harness.Service, port int) {
	t.Helper()
	files := secrets{t, t.TempDir()}
	cert, key := ca.issue("the broker", loopback)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	port = listener.Addr().(*net.TCPAddr).Port
	return harness.RabbitMQ(harness.Private(), harness.Image("none"),
		harness.Setting("listeners.ssl.default", fmt.Sprintf("127.0.0.1:%d", port)),
		harness.Setting("ssl_options.cacertfile", files.put("ca.pem", ca.pem)),
		harness.Setting("ssl_options.certfile", files.put("cert.pem", cert)),
		harness.Setting("ssl_options.keyfile", files.put("key.pem", key)),
		harness.Setting("ssl_options.verify", "verify_peer"),
		harness.Setting("ssl_options.fail_if_no_peer_cert", "true")), port
}

func TestBothServersAreReachedByTLSAndSecretsMayChangeMeanwhile(t *testing.T) {
	ca, other := newAuthority(t, "the shop's CA"), newAuthority(t, "another CA")
	service, port := guardedBroker(t, ca)
	env := harness.Start(t, harness.Postgres(harness.Private()), service)
	g := openGuarded(t, env, ca)
	broker, err := url.Parse(env.RabbitMQ.URL())
	must(t, err)
	password, _ := broker.User.Password()
	username := broker.User.Username()

	files := secrets{t, t.TempDir()}
	root, wrong := files.put("ca.pem", ca.pem), files.put("other.pem", other.pem)
	cert, key := ca.issue("certified", nil)
	certFile, keyFile := files.put("cert.pem", cert), files.put("key.pem", key)
	brokerRoot, brokerCert, brokerKey := files.put("broker-ca.pem", ca.pem), files.put("broker-cert.pem", cert), files.put("broker-key.pem", key)
	cert, key = ca.issue("somebody", nil)
	strangeCert, strangeKey := files.put("somebody.pem", cert), files.put("somebody-key.pem", key)
	cert, key = other.issue("certified", nil)
	foreignCert, foreignKey := files.put("foreign.pem", cert), files.put("foreign-key.pem", key)
	forgedCert := files.put("forged.pem", cert+ca.pem) // it looks as if it were of the CA that the servers ask for
	word, brokerWord := files.put("database", "first\n"), files.put("broker", password+"\n")
	database := func(role string, more ...string) user {
		return user{t, append([]string{"SUREPOST_DATABASE_URL=" + g.url(role)}, more...)}
	}
	withPassword, withRoot := "SUREPOST_DATABASE_PASSWORD_FILE="+word, "SUREPOST_DATABASE_TLS_CA_FILE="+root
	withCert := []string{"SUREPOST_DATABASE_TLS_CERT_FILE=" + certFile, "SUREPOST_DATABASE_TLS_KEY_FILE=" + keyFile}

	// PostgreSQL. Each refusal says what to change.
	owner := database("relay", withPassword, withRoot)
	owner.ok("migrate", "up")
	for what, c := range map[string]struct {
		user user
		says string
	}{
		"a wrong CA":                 {database("relay", withPassword, "SUREPOST_DATABASE_TLS_CA_FILE="+wrong), "name the one that has signed it"},
		"a wrong name":               {database("relay", withPassword, withRoot, "SUREPOST_DATABASE_TLS_SERVER_NAME=db.example"), "is of another name"},
		"no encryption":              {user{t, []string{"SUREPOST_DATABASE_URL=" + g.url("relay") + "?sslmode=disable", withPassword}}, "sslmode=verify-full"},
		"no certificate":             {database("certified", withRoot), "made out to this user"},
		"another's certificate":      {database("certified", withRoot, "SUREPOST_DATABASE_TLS_CERT_FILE="+strangeCert, "SUREPOST_DATABASE_TLS_KEY_FILE="+strangeKey), "made out to this user"},
		"another CA's certificate":   {database("certified", withRoot, "SUREPOST_DATABASE_TLS_CERT_FILE="+foreignCert, "SUREPOST_DATABASE_TLS_KEY_FILE="+foreignKey), "signed by the CA in its ssl_ca_file"},
		"a certificate that isn't":   {database("certified", withRoot, "SUREPOST_DATABASE_TLS_CERT_FILE="+forgedCert, "SUREPOST_DATABASE_TLS_KEY_FILE="+foreignKey), "signed by the CA in the server's ssl_ca_file"},
		"a wrong password of a file": {database("relay", "SUREPOST_DATABASE_PASSWORD_FILE="+wrong, withRoot), "correct user and password"},
	} {
		t.Run("PostgreSQL, "+what, func(t *testing.T) {
			c.user.t = t
			c.user.refused(1, c.says, "status")
			r := c.user.run("doctor", "--json")
			if f := lines[cli.FindingView](t, r.out); r.code != 5 || f[0].Code != "database-unreachable" || !strings.Contains(f[0].Remedy, c.says) {
				t.Errorf("the doctor: %s\nwant the remedy %q", r, c.says)
			}
		})
	}
	database("certified", append(withCert, withRoot)...).ok("status")
	database("relay", withPassword, withRoot, "SUREPOST_DATABASE_TLS_SERVER_NAME=127.0.0.1").ok("status")

	// RabbitMQ.
	amqps := fmt.Sprintf("SUREPOST_BROKER_URLS=amqps://%s@127.0.0.1:%d/%s", username, port, strings.TrimPrefix(broker.Path, "/"))
	withBrokerWord, withBrokerRoot := "SUREPOST_BROKER_PASSWORD_FILE="+brokerWord, "SUREPOST_BROKER_TLS_CA_FILE="+brokerRoot
	withBrokerCert := []string{"SUREPOST_BROKER_TLS_CERT_FILE=" + brokerCert, "SUREPOST_BROKER_TLS_KEY_FILE=" + brokerKey}
	complete := append(slices.Concat(owner.env, withBrokerCert), amqps, withBrokerWord, withBrokerRoot, "SUREPOST_HTTP_LISTEN=off", "SUREPOST_RELAY_LEASE_TTL=3s")
	for what, c := range map[string]struct {
		env  []string
		says string
	}{
		"a wrong CA":     {append(slices.Clone(complete), "SUREPOST_BROKER_TLS_CA_FILE="+wrong), "broker.tls.caFile"},
		"a wrong name":   {append(slices.Clone(complete), "SUREPOST_BROKER_TLS_SERVER_NAME=mq.example"), "broker.tls.serverName"},
		"no certificate": {append(slices.Clone(owner.env), amqps, withBrokerWord, withBrokerRoot), "broker.tls.certFile"},
		"a certificate that isn't its CA's": {append(slices.Clone(complete), "SUREPOST_BROKER_TLS_CERT_FILE="+forgedCert,
			"SUREPOST_BROKER_TLS_KEY_FILE="+foreignKey), "broker.tls.certFile"},
		"the plain port": {append(slices.Clone(complete), "SUREPOST_BROKER_URLS=amqps://"+username+"@"+broker.Host), "use the TLS port (5671)"},
	} {
		t.Run("RabbitMQ, "+what, func(t *testing.T) {
			u := user{t, c.env}
			r := u.run("doctor", "--json")
			if !slices.ContainsFunc(lines[cli.FindingView](t, r.out), func(f cli.FindingView) bool {
				return f.Code == "broker-unreachable" && strings.Contains(f.Remedy, c.says)
			}) || r.code != 5 {
				t.Errorf("the doctor: %s\nwant the remedy %q", r, c.says)
			}
			u.refused(1, c.says, "deadletters", "list", "orders")
		})
	}

	// Everything that is secret is changed while a relay runs, the authority included.
	s := &shop{user: user{t, complete}, pool: g.admin}
	s.box, err = outbox.New(pgxstore.New(g.admin), outbox.Config{Source: "shop"})
	must(t, err)
	s.listen(env.RabbitMQ.URL())
	publishes := func(id string) {
		t.Helper()
		s.write(surepost.Event{ID: id, Type: "OrderCreated"})
		for s.receives(1)[0] != id { // what was published before a connection was lost may come again
		}
	}
	relay := s.start("relay")
	byCert := user{t, slices.Concat(complete, []string{"SUREPOST_DATABASE_URL=" + g.url("certified"), "SUREPOST_DATABASE_PASSWORD_FILE="}, withCert)}
	byCert.start("relay", "--relay-destination=second").says("leading")
	publishes("before")

	files.put("database", "second")
	g.exec("ALTER ROLE relay PASSWORD 'second'")
	g.disconnect()
	publishes("with another password")

	renewed := newAuthority(t, "the shop's new CA")
	cert, key = renewed.issue("certified", nil)
	files.put("ca.pem", renewed.pem)
	files.put("cert.pem", cert)
	files.put("key.pem", key)
	g.certify(renewed)
	g.reload(renewed)
	g.disconnect()
	publishes("with another authority")
	g.arrives("certified")

	files.put("broker", "changed")
	env.RabbitMQ.Eval(t, fmt.Sprintf(`rabbit_auth_backend_internal:change_password(<<"%s">>, <<"changed">>, <<"test">>).`, username))
	env.RabbitMQ.CloseConnections(t)
	broker.User = url.UserPassword(username, "changed")
	s.listen(broker.String())
	publishes("with another password of the broker")
	relay.signal(syscall.SIGTERM)
	if code := relay.ends(); code != 0 {
		t.Errorf("the relay ends with %d", code)
	}
	if out := relay.output(); strings.Contains(out, "changed\"") || strings.Contains(out, password) || strings.Contains(out, "PRIVATE") {
		t.Errorf("a secret is told: %s", out)
	}
}
