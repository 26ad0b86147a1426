package connect

import (
	"crypto/tls"
	"crypto/x509"
	"strings"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
)

// tlsConfig reads the files of a connection's encryption: nil if none is configured. Certificates are verified, by the
// system's roots unless a file is named.
func tlsConfig(t config.TLS) (*tls.Config, error) {
	if !t.IsSet() {
		return nil, nil
	}
	made := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pool, err := readCA(t.CAFile)
		if err != nil {
			return nil, err
		}
		made.RootCAs = pool
	}
	if t.CertFile != "" && t.KeyFile != "" {
		pair, err := readPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, err
		}
		made.Certificates = []tls.Certificate{pair}
	}
	return made, nil
}

func readCA(path string) (*x509.CertPool, error) {
	data, err := config.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, kept{path + " holds no certificate", "name a file with certificates in PEM (-----BEGIN CERTIFICATE-----)"}
	}
	return pool, nil
}

func readPair(cert, key string) (tls.Certificate, error) {
	certPEM, err := config.ReadFile(cert)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyPEM, err := config.ReadFile(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, kept{cert + " and " + key + " are no certificate with its key (" + strings.TrimPrefix(err.Error(), "tls: ") + ")",
			"name a certificate and its own key, unencrypted, in PEM"}
	}
	return pair, nil
}

// validateTLS reads each file and says which key named it.
func validateTLS(c *config.Config, prefix string, t config.TLS) config.Problems {
	var problems config.Problems
	if t.CAFile != "" {
		if _, err := readCA(t.CAFile); err != nil {
			problems = append(problems, problem(c, prefix+".caFile", err))
		}
	}
	if t.CertFile == "" || t.KeyFile == "" {
		return problems // that one is missing was said
	}
	unreadable := false
	for key, path := range map[string]string{".certFile": t.CertFile, ".keyFile": t.KeyFile} {
		if _, err := config.ReadFile(path); err != nil {
			problems = append(problems, problem(c, prefix+key, err))
			unreadable = true
		}
	}
	if !unreadable {
		if _, err := readPair(t.CertFile, t.KeyFile); err != nil {
			problems = append(problems, problem(c, prefix+".certFile", err))
		}
	}
	return problems
}
