//go:build tensorflow

package tensorflow

// #include <stdlib.h>
// #include "tensorflow/c/c_api.h"
// extern const char *tm_tensorflow_dir(void);
// extern int tm_tensorflow_load(const char *dir, char *why, size_t room);
import "C"

import (
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	tf "github.com/tensorflow/tensorflow/tensorflow/go"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/kernel"
)

// Environment names the variable with the folder of libtensorflow_cc.so.2; without it the folder
// is the one that the program was built for.
const Environment = "LIBTENSORFLOW"

// oldest is the first minor version of TensorFlow 2 whose C API and tensor layout fit.
const oldest = 4

// load opens the library, once in a process: it cannot be closed again. It returns its version.
var load = sync.OnceValues(func() (version string, err error) {
	remedy := "give the folder of libtensorflow_cc.so.2 with " + Environment + ", or build with `make tensorflow` on this machine"
	dir := os.Getenv(Environment)
	if dir == "" {
		dir = C.GoString(C.tm_tensorflow_dir())
	}
	const room = 8 << 10
	cdir, why := C.CString(dir), (*C.char)(C.calloc(1, room))
	defer C.free(unsafe.Pointer(cdir))
	defer C.free(unsafe.Pointer(why))
	switch C.tm_tensorflow_load(cdir, why, room) {
	case 0:
	case 1:
		// The loader's message begins with the file's path, which says more about a machine than about the fault.
		return "", tidemill.Invalid("libtensorflow does not load: %s", remedy, strings.ReplaceAll(C.GoString(why), dir+string(filepath.Separator), ""))
	default:
		return "", tidemill.Invalid("libtensorflow lacks %s", remedy, C.GoString(why))
	}
	version = tf.Version()
	if !supported(version) {
		return "", tidemill.Invalid("libtensorflow is version %s, and the engine needs 2.%d or a later 2", remedy, version, oldest)
	}
	// Handles are taken out of the binding's values (handle); the binding is one release that does
	// not change, so this fails with another one at the first use rather than at a wild pointer.
	for _, v := range []any{tf.Session{}, tf.Operation{}} {
		if t := reflect.TypeOf(v); t.NumField() == 0 || t.Field(0).Name != "c" || t.Field(0).Type.Kind() != reflect.Pointer {
			return "", tidemill.Invalid("the TensorFlow binding has another layout of %s", "build with the version in go.mod", t)
		}
	}
	return version, nil
})

func supported(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 || parts[0] != "2" {
		return false
	}
	minor, err := strconv.Atoi(parts[1])
	return err == nil && minor >= oldest
}

// profile is what the bits of this engine's results depend on: the library's version and, since
// it chooses its code by the processor, and rows are added up here, the instruction level.
func profile(version string) string {
	return strings.Join([]string{Name, runtime.GOARCH, runtime.Version(), kernel.Best().String(), version}, "/")
}

// handle returns the C pointer that a Session or Operation of the binding holds.
func handle[T tf.Session | tf.Operation](v *T) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(v))
}
