package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/rpc"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitBad    = 2 // flags, spec or other input
)

// errReported is wrapped by errors whose text has already been shown.
var errReported = errors.New("reported")

// kinds names the kinds of error in JSON, the most telling first.
var kinds = []struct {
	kind error
	name string
}{
	{tidemill.ErrInvalid, "invalid"},
	{tidemill.ErrCorrupt, "corrupt"},
	{tidemill.ErrDenied, "denied"},
	{tidemill.ErrNotFound, "not_found"},
	{tidemill.ErrExists, "exists"},
	{tidemill.ErrFenced, "fenced"},
	{tidemill.ErrConflict, "conflict"},
	{tidemill.ErrFull, "full"},
	{tidemill.ErrNotReady, "not_ready"},
	{tidemill.ErrUnavailable, "unavailable"},
	{context.DeadlineExceeded, "timeout"},
	{context.Canceled, "interrupted"},
}

func kindOf(err error) string {
	for _, k := range kinds {
		if errors.Is(err, k.kind) {
			return k.name
		}
	}
	return "failed"
}

// exitCode maps an error to the code of the process.
func exitCode(err error) int {
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, tidemill.ErrInvalid), errors.As(err, new(refused)):
		return exitBad
	}
	return exitFailed
}

// fail reports err: text for people on stderr, and with --json an object on stdout too.
func (a *app) fail(err error) {
	fmt.Fprintf(a.err, "tidemill: %s\n", strings.ReplaceAll(message(err), "\n", "\n  "))
	if a.json {
		_ = json.NewEncoder(a.out).Encode(struct {
			Error string `json:"error"`
			Kind  string `json:"kind"`
		}{message(err), kindOf(err)})
	}
}

// message is err for people.
func message(err error) string {
	var wire *rpc.Error
	if errors.As(err, &wire) {
		return wire.Message // the verb before it is the command that was typed
	}
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	return err.Error()
}

// usageError turns what the command line parser refused into bad input with a remedy.
func usageError(cmd *cobra.Command, err error) error {
	if errors.Is(err, tidemill.ErrInvalid) {
		return err
	}
	what, _, _ := strings.Cut(err.Error(), "\n")
	remedy := fmt.Sprintf("see %s --help", cmd.CommandPath())
	if strings.HasPrefix(what, "unknown command") {
		if near := nearestCommand(cmd, what); near != "" {
			remedy = fmt.Sprintf("did you mean %q? see %s --help", near, cmd.CommandPath())
		}
	}
	if flag, ok := strings.CutPrefix(what, "unknown flag: --"); ok {
		if near := tidemill.Nearest(flag, flagNames(cmd)); near != "" {
			remedy = fmt.Sprintf("did you mean --%s? see %s --help", near, cmd.CommandPath())
		}
	}
	return &tidemill.InputError{What: what, Remedy: remedy}
}

func nearestCommand(cmd *cobra.Command, what string) string {
	quoted := strings.SplitN(what, `"`, 3)
	if len(quoted) < 3 {
		return ""
	}
	var names []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			names = append(names, c.Name())
		}
	}
	return tidemill.Nearest(quoted[1], names)
}

// hasJSON reports whether --json stands among args.
func hasJSON(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	return slices.Contains(args, "--json") || slices.Contains(args, "--json=true")
}
