// Package fleet is the cast: the programs that work with events but are not
// stages, because they do I/O or keep time of their own. A topology names each
// by its role, which is also its folder, and gives it ports: the streams that
// it produces and consumes and the services that it serves. What a role may
// publish and read follows from its ports.
//
//	role    produces      consumes  serves  what it does
//	server  REGISTRATION  -         -       runs on every node and says what the node is
//
// The server gains LIFECYCLE, JOBS, MACHINES and ORDERS as it learns to report
// its own life, to run jobs and machines and to take orders. The signer,
// provisioner, authenticator, receiver and inventory come beside it. Package
// trust is no program: it holds all code about tokens and keys.
//
// Programs import streams, schemas and trust, and another program only as its
// client. They never import processors, topology or bench.
package fleet
