// Package connect makes a store and a publisher of the configuration. Validate says what is wrong before anything connects:
// it parses URLs, and reads the files that they and the configuration name.
//
// Files with secrets and certificates are read again for each connection, so that they can be renewed while a relay
// runs. No error quotes a URL that may hold a password.
package connect
