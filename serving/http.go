package serving

import (
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// headerLength is the length of the JSON before binary tensors.
const headerLength = "Inference-Header-Content-Length"

// Handler serves the protocol's routes under /v2. Errors are {"error": "…"}.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.log.Error("a request panicked", "panic", p, "stack", string(debug.Stack()))
				writeError(w, http.StatusInternalServerError, "internal error")
			}
		}()
		if s.leaving.Load() {
			w.Header().Set("Connection", "close")
		}
		s.route(w, r)
	})
}

// route dispatches by the path as the client wrote it, so that an escaped slash stays inside
// its segment.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	path := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	for i := range path {
		p, err := url.PathUnescape(path[i])
		if err != nil {
			writeError(w, http.StatusBadRequest, "malformed path")
			return
		}
		path[i] = p
	}
	if path[0] != "v2" {
		writeError(w, http.StatusNotFound, "no such route; they begin with /v2")
		return
	}
	switch path = path[1:]; {
	case len(path) == 0:
		s.get(w, r, func() { writeJSON(w, http.StatusOK, s.serverMetadata()) })
	case len(path) == 2 && path[0] == "health" && path[1] == "live":
		s.get(w, r, func() { writeJSON(w, http.StatusOK, map[string]bool{"live": true}) })
	case len(path) == 2 && path[0] == "health" && path[1] == "ready":
		s.get(w, r, func() {
			ready := s.Ready()
			writeJSON(w, readyCode(ready), map[string]bool{"ready": ready})
		})
	case path[0] == "models" && len(path) >= 2:
		s.routeModel(w, r, path[1], path[2:])
	default:
		writeError(w, http.StatusNotFound, "no such route")
	}
}

func (s *Server) routeModel(w http.ResponseWriter, r *http.Request, model string, rest []string) {
	if snapshot.CheckName("model", model) != nil {
		writeError(w, http.StatusNotFound, "model "+quote(model)+": not found")
		return
	}
	version := ""
	if len(rest) >= 2 && rest[0] == "versions" {
		version, rest = rest[1], rest[2:]
		if version != "champion" {
			if _, err := parseVersion(version); err != nil {
				fail(w, err)
				return
			}
		}
	}
	switch {
	case len(rest) == 0:
		s.get(w, r, func() {
			meta, err := s.modelMetadata(model, version)
			if err != nil {
				fail(w, err)
				return
			}
			writeJSON(w, http.StatusOK, meta)
		})
	case len(rest) == 1 && rest[0] == "ready":
		s.get(w, r, func() {
			ready, err := s.modelReady(model, version)
			if err != nil {
				fail(w, err)
				return
			}
			writeJSON(w, readyCode(ready), struct {
				Name  string `json:"name"`
				Ready bool   `json:"ready"`
			}{model, ready})
		})
	case len(rest) == 1 && rest[0] == "infer":
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			writeError(w, http.StatusMethodNotAllowed, "POST is expected")
			return
		}
		s.inferHTTP(w, r, model, version)
	default:
		writeError(w, http.StatusNotFound, "no such route")
	}
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, do func()) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeError(w, http.StatusMethodNotAllowed, "GET is expected")
		return
	}
	do()
}

func readyCode(ready bool) int {
	if ready {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

// errTooLarge is a body beyond Config.MaxBody.
var errTooLarge = errors.New("the body is too large")

func (s *Server) inferHTTP(w http.ResponseWriter, r *http.Request, model, version string) {
	if _, err := s.named(model); err != nil { // before the body is read
		s.metrics.done("", "http", err, 0, 0)
		fail(w, err)
		return
	}
	body, err := s.body(w, r)
	if err != nil {
		s.metrics.done(model, "http", err, 0, 0)
		if errors.Is(err, errTooLarge) {
			writeError(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes", s.cfg.MaxBody))
			return
		}
		fail(w, err)
		return
	}
	req, err := parseInfer(body, r.Header.Values(headerLength))
	if err != nil {
		s.metrics.done(model, "http", err, 0, 0)
		fail(w, err)
		return
	}
	req.model, req.version = model, version
	resp, err := s.infer(r.Context(), "http", &req.request)
	if err != nil {
		fail(w, err)
		return
	}
	head, tail := encodeInfer(req, resp)
	if tail != nil {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set(headerLength, strconv.Itoa(len(head)))
	} else {
		w.Header().Set("Content-Type", "application/json")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(head)+len(tail)))
	w.WriteHeader(http.StatusOK)
	if _, err := w.Write(head); err == nil {
		_, _ = w.Write(tail) // the client has gone
	}
}

// body reads the request's body, decompressed, up to MaxBody bytes.
func (s *Server) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > s.cfg.MaxBody {
		return nil, errTooLarge
	}
	var in io.Reader = http.MaxBytesReader(w, r.Body, s.cfg.MaxBody)
	encoding := strings.ToLower(strings.TrimSpace(strings.Join(r.Header.Values("Content-Encoding"), ",")))
	switch encoding {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, bodyError(err, encoding)
		}
		defer z.Close()
		in = z
	case "deflate":
		z, err := zlib.NewReader(in)
		if err != nil {
			return nil, bodyError(err, encoding)
		}
		defer z.Close()
		in = z
	default:
		return nil, tidemill.Invalid("content encoding %s", "gzip, deflate or none", quote(encoding))
	}
	data, err := io.ReadAll(io.LimitReader(in, s.cfg.MaxBody+1))
	if err != nil {
		return nil, bodyError(err, encoding)
	}
	if int64(len(data)) > s.cfg.MaxBody {
		return nil, errTooLarge
	}
	return data, nil
}

func bodyError(err error, encoding string) error {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return errTooLarge
	case encoding != "":
		return tidemill.Invalid("the body is no whole %s stream", "", encoding)
	}
	return tidemill.Invalid("the body ends early", "")
}

// httpCodes maps a code to a status; any other is 500.
var httpCodes = map[codes.Code]int{
	codes.InvalidArgument: http.StatusBadRequest, codes.FailedPrecondition: http.StatusBadRequest, codes.OutOfRange: http.StatusBadRequest,
	codes.NotFound: http.StatusNotFound, codes.Unauthenticated: http.StatusUnauthorized, codes.PermissionDenied: http.StatusForbidden,
	codes.AlreadyExists: http.StatusConflict, codes.Aborted: http.StatusConflict, codes.ResourceExhausted: http.StatusTooManyRequests,
	codes.Unimplemented: http.StatusNotImplemented, codes.Unavailable: http.StatusServiceUnavailable,
	codes.DeadlineExceeded: http.StatusGatewayTimeout, codes.Canceled: 499,
}

func fail(w http.ResponseWriter, err error) {
	st := status.Convert(rpc.ToStatus(err))
	code, ok := httpCodes[st.Code()]
	if !ok {
		code = http.StatusInternalServerError
	}
	writeError(w, code, st.Message())
}

func writeError(w http.ResponseWriter, code int, message string) {
	writeJSON(w, code, map[string]string{"error": message})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		code, data = http.StatusInternalServerError, []byte(`{"error":"internal error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(code)
	_, _ = w.Write(data) // the client has gone
}
