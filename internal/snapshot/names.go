package snapshot

import (
	"fmt"
	"strings"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
)

// CheckName reports whether s can name a job, model or member: 1 to 128 letters, digits,
// '_', '-' and '.', and not "." or "..". what says what s names; the error wraps
// tidemill.ErrInvalid.
func CheckName(what, s string) error {
	if s == "" || len(s) > 128 || s == "." || s == ".." || strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return tidemill.Invalid("%s name %q", "use 1 to 128 letters, digits, '_', '-' and '.'", what, clip(s))
	}
	return nil
}

func plain(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' || r == '.'
}

// number writes n the way names do, so that they sort as the numbers do.
func number(n int64) string { return fmt.Sprintf("%09d", n) }

// maxNumber is the largest number that nine digits write.
const maxNumber = 999_999_999

// parseNumber reads what number wrote; ok is false for anything else.
func parseNumber(s string) (n int64, ok bool) {
	if len(s) != 9 {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, n > 0
}

// tableBlob returns the last part of the name of a table's blob in a snapshot: position and
// first shard make it unique, the name makes it readable.
func tableBlob(i int, name string, shard int) string {
	return fmt.Sprintf("table-%02d-%s-s%05d.arrow", i, safe(name), shard)
}

// removedBlob returns that of the blob that says which rows are gone.
func removedBlob(i int, name string) string {
	return fmt.Sprintf("table-%02d-%s-removed.arrow", i, safe(name))
}

// versionBlob returns that of a table's blob in a version.
func versionBlob(i int, name string) string { return fmt.Sprintf("table-%02d-%s.arrow", i, safe(name)) }

// safe makes a table's name fit for a blob's.
func safe(name string) string {
	s := strings.Map(func(r rune) rune {
		if !plain(r) {
			return '_'
		}
		return r
	}, name)
	return s[:min(len(s), 64)]
}

// PartName is what the names of one parameter server's blobs in one snapshot are made of:
// enough that no other attempt, by whomever, ever uses the same names.
type PartName struct {
	Job        string
	Number     int64  // of the snapshot that is tried
	Generation uint64 // with Epoch it keeps what a fenced owner still writes apart
	Epoch      uint64 // of the owner's shards, the largest of them
	Attempt    int64  // counts the captures of the process: a number is tried again after a failure
	Member     string
}

// Prefix returns the prefix for WritePart; a name that cannot be one wraps
// tidemill.ErrInvalid.
func (p PartName) Prefix() (string, error) {
	if err := CheckName("job", p.Job); err != nil {
		return "", err
	}
	if err := CheckName("member", p.Member); err != nil {
		return "", err
	}
	if p.Number < 1 || p.Number > maxNumber {
		return "", tidemill.Invalid("snapshot number %d", "numbers are 1 to 999999999", p.Number)
	}
	return fmt.Sprintf("jobs/%s/snapshot/%s/g%d-e%d-a%d-%s-", p.Job, number(p.Number), p.Generation, p.Epoch, p.Attempt, p.Member), nil
}

// Snapshots returns the chain of a job's manifests.
func Snapshots(b *blob.Bucket, job string) (*Chain, error) {
	if err := CheckName("job", job); err != nil {
		return nil, err
	}
	return NewChain(b, "jobs/"+job+"/snapshot/", "/manifest.json"), nil
}

// Champions returns the chain of a model's champion records.
func Champions(b *blob.Bucket, model string) (*Chain, error) {
	if err := CheckName("model", model); err != nil {
		return nil, err
	}
	return NewChain(b, "models/"+model+"/champion/", ".json"), nil
}

func versionPrefix(model string, n int64) (string, error) {
	if err := CheckName("model", model); err != nil {
		return "", err
	}
	if n < 1 || n > maxNumber {
		return "", tidemill.Invalid("version number %d", "numbers are 1 to 999999999", n)
	}
	return "models/" + model + "/version/" + number(n) + "/", nil
}

func decisions(b *blob.Bucket, model string, version int64) (*Chain, error) {
	if _, err := versionPrefix(model, version); err != nil {
		return nil, err
	}
	return NewChain(b, "models/"+model+"/decision/"+number(version)+"/", ".json"), nil
}
