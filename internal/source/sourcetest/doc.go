// Package sourcetest is the conformance suite of stream drivers: a driver is right when Run
// passes over it. The suite speaks only the interfaces of package source, builds its rows
// from a checked allocator, and waits for conditions, never for time.
package sourcetest
