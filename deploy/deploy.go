// Package deploy holds reference topologies and what is needed to run them as
// services.
package deploy

import _ "embed"

// Laptop is a hub and two cells in one process, everything embedded. It is
// what "weir up" runs when it is given no file.
//
//go:embed laptop.yaml
var Laptop []byte
