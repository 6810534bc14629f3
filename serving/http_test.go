package serving

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/tidemill/tidemill/internal/predict/predicttest"
)

// jsonBody is an infer request of rows in JSON, columns flat or nested as [n,1].
func jsonBody(rows arrow.RecordBatch, nested bool) string {
	n := int(rows.NumRows())
	var price, count, city, flag []string
	for i := range n {
		price = append(price, strconv.FormatFloat(rows.Column(0).(*array.Float64).Value(i), 'g', -1, 64))
		count = append(count, fmt.Sprint(rows.Column(1).(*array.Int64).Value(i)))
		city = append(city, strconv.Quote(rows.Column(2).(*array.String).Value(i)))
		flag = append(flag, fmt.Sprint(rows.Column(3).(*array.Boolean).Value(i)))
	}
	shape, left, right := fmt.Sprint(n), "", ""
	if nested {
		shape, left, right = shape+",1", "[", "]"
	}
	tensor := func(name, datatype string, data []string) string {
		return fmt.Sprintf(`{"name":%q,"shape":[%s],"datatype":%q,"data":[%s%s%s]}`, name, shape, datatype, left, strings.Join(data, right+", "+left), right)
	}
	return `{"id":"7","inputs":[` + strings.Join([]string{tensor("price", "FP64", price), tensor("count", "INT64", count), tensor("city", "BYTES", city), tensor("flag", "BOOL", flag)}, ",\n ") + `]}`
}

// binaryBody is the same with binary tensors behind the JSON, and its header's value.
func binaryBody(rows arrow.RecordBatch, more string) (body []byte, header string) {
	r := raw("m", rows)
	head := `{"inputs":[`
	for i, in := range r.Inputs {
		if i > 0 {
			head += ","
		}
		head += fmt.Sprintf(`{"name":%q,"shape":[%d],"datatype":%q,"parameters":{"binary_data_size":%d}}`, in.Name, rows.NumRows(), in.Datatype, len(r.RawInputContents[i]))
	}
	head += `]` + more + `}`
	return append([]byte(head), bytes.Join(r.RawInputContents, nil)...), fmt.Sprint(len(head))
}

type answer struct {
	Error        string `json:"error"`
	ModelName    string `json:"model_name"`
	ModelVersion string `json:"model_version"`
	ID           string `json:"id"`
	Outputs      []struct {
		Name       string
		Datatype   string
		Shape      []int64
		Data       []float32
		Parameters map[string]int
	}
}

// post sends an infer request and returns the status and what came back.
func (w *world) post(path string, body []byte, header map[string]string) (int, answer, []byte) {
	w.t.Helper()
	req, err := http.NewRequest(http.MethodPost, w.http.URL+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	text, tail := data, []byte(nil)
	if n := resp.Header.Get(headerLength); n != "" {
		at, err := strconv.Atoi(n)
		if err != nil {
			w.t.Fatal(err)
		}
		text, tail = data[:at], data[at:]
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		w.t.Fatalf("status %d, body %q: %v", resp.StatusCode, text, err)
	}
	if (resp.StatusCode != 200) != (a.Error != "") {
		w.t.Errorf("status %d with error %q", resp.StatusCode, a.Error)
	}
	return resp.StatusCode, a, tail
}

const inferPath = "/v2/models/m/infer"

func TestHTTPInfer(t *testing.T) {
	w := start(t, Config{Models: []string{"m"}})
	w.publish("m", 6)
	rows := predicttest.Rows(20, 8)
	defer rows.Release()
	want := offline(t, "m", 6, rows)
	squeeze := func(body string, z func(io.Writer) io.WriteCloser) []byte {
		var b bytes.Buffer
		c := z(&b)
		if _, err := io.WriteString(c, body); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	body := jsonBody(rows, false)
	for name, c := range map[string]struct {
		path   string
		body   []byte
		header map[string]string
	}{
		"flat":     {inferPath, []byte(body), nil},
		"nested":   {inferPath, []byte(jsonBody(rows, true)), nil},
		"version":  {"/v2/models/m/versions/6/infer", []byte(body), nil},
		"champion": {"/v2/models/m/versions/champion/infer", []byte(body), nil},
		"escaped":  {"/v2/models/%6d/infer", []byte(body), nil},
		"length":   {inferPath, []byte(body), map[string]string{headerLength: fmt.Sprint(len(body))}},
		"gzip":     {inferPath, squeeze(body, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }), map[string]string{"Content-Encoding": "gzip"}},
		"deflate":  {inferPath, squeeze(body, func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }), map[string]string{"Content-Encoding": "deflate"}},
	} {
		code, a, _ := w.post(c.path, c.body, c.header)
		if code != 200 || a.ModelName != "m" || a.ModelVersion != "6" || a.ID != "7" || len(a.Outputs) != 1 {
			t.Fatalf("%s: %d, %+v", name, code, a)
		}
		if o := a.Outputs[0]; o.Name != "prediction" || o.Datatype != "FP32" || !slices.Equal(o.Shape, []int64{20}) || !slices.Equal(o.Data, want) {
			t.Fatalf("%s: output %+v, want %v", name, o, want)
		}
	}
	for more, binary := range map[string]bool{
		``: false,
		`,"parameters":{"binary_data_output":true}`:                                                                            true,
		`,"outputs":[{"name":"prediction","parameters":{"binary_data":true}}]`:                                                 true,
		`,"outputs":[{"name":"prediction","parameters":{"binary_data":false}}],"parameters":{"binary_data_output":true}`:       false,
		`,"outputs":[{"name":"prediction","parameters":{"classification":0}}],"parameters":{"binary_data_output":true,"a":[]}`: true,
	} {
		body, length := binaryBody(rows, more)
		code, a, tail := w.post(inferPath, body, map[string]string{headerLength: length})
		if code != 200 {
			t.Fatalf("%s: %d, %s", more, code, a.Error)
		}
		got := a.Outputs[0].Data
		if binary {
			if got != nil || a.Outputs[0].Parameters["binary_data_size"] != len(tail) {
				t.Fatalf("%s: not binary: %+v", more, a)
			}
			got = fromRaw(tail)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%s: %v, want %v", more, got, want)
		}
	}
	// A null is what it is in training: a missing value.
	nulls := strings.Replace(body, `"shape":[20],"datatype":"FP64","data":[`, `"shape":[20],"datatype":"FP64","data":[null,`, 1)
	first, rest, _ := strings.Cut(nulls, "null,")
	_, rest, _ = strings.Cut(rest, ", ")
	code, a, _ := w.post(inferPath, []byte(first+"null, "+rest), nil)
	if code != 200 || !slices.Equal(a.Outputs[0].Data[1:], want[1:]) || a.Outputs[0].Data[0] == want[0] {
		t.Fatalf("null: %d, %+v", code, a)
	}
}

func TestHTTPRoutes(t *testing.T) {
	w := start(t, Config{Models: []string{"m"}, Version: "1.2"})
	get := func(method, path string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, w.http.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(data)
	}
	for path, want := range map[string]int{"/v2/health/live": 200, "/v2/health/ready": 503, "/v2/models/m/ready": 503, "/v2/models/m": 503} {
		if code, body := get("GET", path); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
	w.publish("m", 2)
	for path, want := range map[string]string{
		"/v2":                           `{"name":"tidemill","version":"1.2","extensions":["binary_tensor_data"]}`,
		"/v2/health/live":               `{"live":true}`,
		"/v2/health/ready":              `{"ready":true}`,
		"/v2/models/m/ready":            `{"name":"m","ready":true}`,
		"/v2/models/m/versions/2/ready": `{"name":"m","ready":true}`,
		"/v2/models/m": `{"name":"m","versions":["2"],"platform":"tidemill_logistic","inputs":[{"name":"price","datatype":"FP64","shape":[-1]},` +
			`{"name":"count","datatype":"INT64","shape":[-1]},{"name":"city","datatype":"BYTES","shape":[-1]},{"name":"flag","datatype":"BOOL","shape":[-1]}],` +
			`"outputs":[{"name":"prediction","datatype":"FP32","shape":[-1]}]}`,
	} {
		if code, body := get("GET", path); code != 200 || body != want {
			t.Errorf("%s: %d %s, want %s", path, code, body, want)
		}
	}
	long := strings.Repeat("x", 256)
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/", 404}, {"GET", "/v1/models/m", 404}, {"GET", "/v2/", 404}, {"GET", "/v2/models", 404}, {"GET", "/v2/models/", 404},
		{"GET", "/v2/models/other", 404}, {"GET", "/v2/models/m/versions/3", 404}, {"GET", "/v2/models/m/versions/3/ready", 404},
		{"GET", "/v2/models/m/versions/0", 400}, {"GET", "/v2/models/m/versions/-1", 400}, {"GET", "/v2/models/m/versions/x", 400}, {"GET", "/v2/models/m/versions/9223372036854775808", 400},
		{"GET", "/v2/models/m/versions", 404}, {"GET", "/v2/models/m/", 404}, {"GET", "/v2//models/m", 404}, {"GET", "/v2/models//m", 404},
		{"GET", "/v2/models/%2e%2e%2fm", 404}, {"GET", "/v2/models/%252e%252e", 404}, {"GET", "/v2/models/../m", 404}, {"GET", "/v2/models/a%2f..%2fm", 404},
		{"GET", "/v2/models/%20", 404}, {"GET", "/v2/models/" + long, 404}, {"GET", "/v2/models/%2fetc%2fpasswd", 404}, {"GET", "/v2/models/m/infer", 405},
		{"POST", "/v2/health/live", 405}, {"DELETE", "/v2/models/m", 405}, {"PUT", inferPath, 405}, {"POST", "/v2/models/other/infer", 404}, {"POST", "/v2/models/m/explain", 404},
	} {
		code, body := get(c.method, c.path)
		var e map[string]string
		if code != c.want || json.Unmarshal([]byte(body), &e) != nil || e["error"] == "" || len(body) > 600 {
			t.Errorf("%s %.40s: %d %.100s, want %d and an error", c.method, c.path, code, body, c.want)
		}
	}
}

func TestHTTPBadBodies(t *testing.T) {
	w := start(t, Config{Models: []string{"m"}, MaxBody: 1 << 20})
	w.publish("m", 1)
	rows := predicttest.Rows(3, 8)
	defer rows.Release()
	good := jsonBody(rows, false)
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	count := func(data string) string {
		a, b := strings.Index(good, `"datatype":"INT64"`), strings.Index(good, `{"name":"city"`)
		return good[:a] + `"datatype":"INT64","data":` + data + "},\n" + good[b:]
	}
	city := func(data string) string {
		a, b := strings.Index(good, `"datatype":"BYTES"`), strings.Index(good, `{"name":"flag"`)
		return good[:a] + `"datatype":"BYTES","data":` + data + "},\n" + good[b:]
	}
	for name, body := range map[string]string{
		"45 deep data":        count(strings.Repeat("[", 120) + "1,2,3" + strings.Repeat("]", 120)),
		"45 deep elsewhere":   `{"x":` + strings.Repeat("[", 250000) + strings.Repeat("]", 250000) + `}`,
		"46 inputs an object": `{"inputs":{}}`,
		"46 no inputs":        `{}`,
		"46 empty inputs":     `{"inputs":[]}`,
		"46 instances":        `{"instances":[[1]]}`,
		"47 key twice":        replace(`"id":"7"`, `"id":"7","id":"8"`),
		"47 name twice":       replace(`"name":"price"`, `"name":"price","name":"price"`),
		"48 1e400":            replace(`"datatype":"FP64","data":[`, `"datatype":"FP64","data":[1e400,`),
		"48 2^64":             count("[1,2,18446744073709551616]"),
		"48 text":             count(`[1,2,"1"]`),
		"48 fraction":         count("[1,2,1.5]"),
		"48 leading zero":     count("[1,2,01]"),
		"48 plus":             count("[1,2,+1]"),
		"48 hex":              count("[1,2,0x1]"),
		"49 NaN":              count("[1,2,NaN]"),
		"49 Infinity":         count("[1,2,-Infinity]"),
		"51 ragged":           count("[[1],[2],[3,4]]"),
		"51 mixed":            count("[1,[2],3]"),
		"51 mixed back":       count("[[1],2,[3]]"),
		"51 nested too deep":  count("[[[1]],[[2]],[[3]]]"),
		"51 nested, flat":     count("[[1,2,3]]"),
		"too few":             count("[1,2]"),
		"too many":            count("[1,2,3,4]"),
		"no array":            count("1"),
		"trailing comma":      count("[1,2,3,]"),
		"52 invalid UTF-8":    city("[\"a\xff\",\"b\",\"c\"]"),
		"52 half a surrogate": city(`["\ud800","b","c"]`),
		"52 unknown escape":   city(`["\x41","b","c"]`),
		"52 control":          city("[\"a\n\",\"b\",\"c\"]"),
		"52 BOM":              "\ufeff" + good,
		"53 empty":            "",
		"53 null":             "null",
		"53 array":            "[]",
		"53 truncated":        good[:len(good)-2],
		"53 more":             good + "{}",
		"no data":             replace(`"data":[`, `"dat":[`),
		"no shape":            replace(`"shape":[3],`, ``),
		"no datatype":         replace(`"datatype":"FP64",`, ``),
		"FP16 in JSON":        replace(`"datatype":"FP64"`, `"datatype":"FP16"`),
		"text for a bool":     replace(`"datatype":"BOOL"`, `"datatype":"BYTES"`),
		"bool for text":       city("[true,false,true]"),
		"huge shape":          replace(`"shape":[3]`, `"shape":[1000000000]`),
		"9 dimensions":        replace(`"shape":[3]`, `"shape":[3,1,1,1,1,1,1,1,1]`),
		"negative shape":      replace(`"shape":[3]`, `"shape":[-3]`),
		"shape of text":       replace(`"shape":[3]`, `"shape":["3"]`),
		"INT8 300":            strings.Replace(count("[1,2,300]"), `"INT64"`, `"INT8"`, 1),
		"id a number":         replace(`"id":"7"`, `"id":7`),
		"timeout text":        replace(`"id":"7"`, `"parameters":{"timeout":"soon"}`),
		"output unknown":      replace(`"id":"7"`, `"outputs":[{"name":"y"}]`),
		"output twice":        replace(`"id":"7"`, `"outputs":[{"name":"prediction"},{"name":"prediction"}]`),
		"outputs an object":   replace(`"id":"7"`, `"outputs":{}`),
		"binary_data text":    replace(`"id":"7"`, `"outputs":[{"name":"prediction","parameters":{"binary_data":"yes"}}]`),
		"binary without data": replace(`"data":[`, `"parameters":{"binary_data_size":24},"data":[`),
	} {
		if code, a, _ := w.post(inferPath, []byte(body), nil); code != 400 || len(a.Error) > 1100 {
			t.Errorf("%s: %d %.200s, want 400", name, code, a.Error)
		}
	}
	binary, length := binaryBody(rows, "")
	n, _ := strconv.Atoi(length)
	size := func(old, new string) []byte { return bytes.Replace(binary, []byte(old), []byte(new), 1) }
	for name, c := range map[string]struct {
		body   []byte
		length string
	}{
		"57 negative": {binary, "-1"}, "57 beyond the body": {binary, fmt.Sprint(len(binary) + 1)}, "57 beyond INT_MAX": {binary, "4294967296000"},
		"57 beyond 64 bits": {binary, "99999999999999999999"}, "57 no number": {binary, "x"}, "57 zero": {binary, "0"}, "57 space": {binary, "1 0"},
		"57 short": {binary, fmt.Sprint(n - 1)}, "57 long": {binary, fmt.Sprint(n + 1)},
		"57 bytes missing": {binary[:len(binary)-1], length}, "57 bytes left": {append(slices.Clone(binary), 0), length},
		"57 size smaller":      {size(`"binary_data_size":24`, `"binary_data_size":23`), length},
		"57 size larger":       {size(`"binary_data_size":24`, `"binary_data_size":99`), length},
		"57 size negative":     {size(`"binary_data_size":24`, `"binary_data_size":-9`), fmt.Sprint(n)},
		"57 size not a number": {size(`"binary_data_size":24`, `"binary_data_size":""`), length},
	} {
		if code, a, _ := w.post(inferPath, c.body, map[string]string{headerLength: c.length}); code != 400 {
			t.Errorf("%s: %d %s, want 400", name, code, a.Error)
		}
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	if _, err := z.Write(bytes.Repeat([]byte(" "), 8<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		body     []byte
		encoding string
		want     int
	}{
		"54 too large": {make([]byte, 1<<20+1), "", 413}, "56 bomb": {bomb.Bytes(), "gzip", 413}, "56 truncated": {bomb.Bytes()[:40], "gzip", 400},
		"56 not gzip": {[]byte(good), "gzip", 400}, "56 not deflate": {[]byte(good), "deflate", 400}, "56 unknown": {[]byte(good), "br", 400}, "56 two": {bomb.Bytes(), "gzip, gzip", 400},
	} {
		header := map[string]string{}
		if c.encoding != "" {
			header["Content-Encoding"] = c.encoding
		}
		if code, a, _ := w.post(inferPath, c.body, header); code != c.want {
			t.Errorf("%s: %d %s, want %d", name, code, a.Error, c.want)
		}
	}
	if code, a, _ := w.post(inferPath, []byte(good), nil); code != 200 {
		t.Errorf("afterwards a good request: %d %s", code, a.Error)
	}
}

func TestAppendFloatReadsBack(t *testing.T) {
	for _, x := range []float32{0, 1, 0.1, 1e-7, 1e-38, 1e-45, 3.4e38, 1e21, 123456.79, -2.5} {
		b := appendFloat(nil, x)
		got, err := strconv.ParseFloat(string(b), 32)
		if err != nil || float32(got) != x || !json.Valid(b) {
			t.Errorf("%v is written as %s", x, b)
		}
	}
	if s := string(appendFloat(nil, math.Float32frombits(1))); !json.Valid([]byte(s)) {
		t.Error(s)
	}
}
