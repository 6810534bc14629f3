// Package trial runs a graph in a process of its own before a job may train it: what ends
// TensorFlow's process ends that one, and the trainer says so to whoever submits the job.
//
// Run starts this program again as a child, hands it the job and the graph file, and returns what
// the child found. Child is the other side: it compiles the job and computes some made-up batches.
package trial
