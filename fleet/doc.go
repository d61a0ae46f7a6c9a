// Package fleet is the cast: the programs that work with events but are not
// stages, because they do I/O or keep time of their own. A topology names each
// by its role, which is also its folder, and gives it ports: the streams that
// it produces and consumes and the services that it serves. What a role may
// publish and read follows from its ports.
//
//	role           produces                 consumes                   serves            what it does
//	server         REGISTRATION, LIFECYCLE  -                          -                 runs on every node and says what the node is and that it lives
//	callout        -                        REVOCATIONS                -                 tells the broker who connects, and closes the connections of the revoked
//	provisioner    PROVISIONING             PROVISIONING, REVOCATIONS  -                 makes machines nodes
//	authenticator  AUDIT                    REVOCATIONS                login             lets people in, by tokens of its own
//	signer         AUDIT                    AUDIT, REVOCATIONS         sign, aaa_signer  signs the requests of those who may not sign themselves
//
// The server publishes both over core NATS, for whoever puts them into streams;
// server/direct registers nodes straight into a stream of ours. It gains JOBS,
// MACHINES and ORDERS as it learns to run jobs and machines and to take orders.
// The receiver and the inventory come beside it.
// Packages trust, audit and cli are no programs: one holds all code about tokens,
// keys and policies, one makes what was decided tamper-evident, one has the verbs.
//
// Programs import streams, schemas and trust, and another program only as its
// client. They never import processors, topology or bench.
package fleet
