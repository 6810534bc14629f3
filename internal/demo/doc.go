// Package demo replays a real stream through a whole embedded node while a client keeps
// asking its serving endpoint, and reports what came of it. It is a program's library: it
// uses the node as an operator would and judges it from outside.
package demo
