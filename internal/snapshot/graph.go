package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
)

// Graph files are stored under the SHA-256 of their bytes, in hexadecimal: jobs that train the same
// one share it, and nobody can change it. They are not collected.

// maxGraph is how long a graph file can be: as graphfile.MaxBytes.
const maxGraph = 512 << 20

func graphName(sum string) (string, error) {
	if raw, err := hex.DecodeString(sum); err != nil || len(raw) != sha256.Size || hex.EncodeToString(raw) != sum {
		return "", tidemill.Invalid("graph %q", "a graph is named by the 64 hexadecimal digits of its SHA-256", clip(sum))
	}
	return "graphs/" + sum + ".graph", nil
}

// WriteGraph stores a graph file and returns its name. One that is there already is left as it is.
func WriteGraph(ctx context.Context, b *blob.Bucket, data []byte) (sum string, err error) {
	raw := sha256.Sum256(data)
	sum = hex.EncodeToString(raw[:])
	name, err := graphName(sum)
	if err != nil {
		return "", err
	}
	if err := create(ctx, b, name, data); err != nil && !errors.Is(err, tidemill.ErrExists) {
		return "", err
	}
	return sum, nil
}

// HasGraph reports whether a graph file is there.
func HasGraph(ctx context.Context, b *blob.Bucket, sum string) (bool, error) {
	name, err := graphName(sum)
	if err != nil {
		return false, err
	}
	ok, err := b.Exists(ctx, name)
	if err != nil {
		return false, fmt.Errorf("look for graph %s: %w", sum, err)
	}
	return ok, nil
}

// ReadGraph returns a graph file. tidemill.ErrNotFound means that it is not there,
// tidemill.ErrCorrupt that its bytes are others than its name says.
func ReadGraph(ctx context.Context, b *blob.Bucket, sum string) ([]byte, error) {
	name, err := graphName(sum)
	if err != nil {
		return nil, err
	}
	data, err := readAll(ctx, b, name, maxGraph)
	if errors.Is(err, tidemill.ErrNotFound) {
		return nil, fmt.Errorf("graph file %s: %w", sum, tidemill.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != sum {
		return nil, corrupt(name, "its bytes have SHA-256 %x", got)
	}
	return data, nil
}

// readGraph fetches the graph file that the spec of v names. One that is missing is
// tidemill.ErrCorrupt: the version cannot be used.
func (v *VersionFiles) readGraph(ctx context.Context, b *blob.Bucket) (err error) {
	if sum := v.Spec.Architecture.Graph; sum != "" {
		if v.Graph, err = ReadGraph(ctx, b, sum); errors.Is(err, tidemill.ErrNotFound) {
			return fmt.Errorf("graph file %s of the version is missing: %w", sum, tidemill.ErrCorrupt)
		}
	}
	return err
}
