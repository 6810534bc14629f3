package serving

import (
	"strconv"
)

// serverMetadata and modelMetadata are the same in both protocols; the tags are JSON's.
type serverMetadata struct {
	Name       string   `json:"name"`
	Version    string   `json:"version"`
	Extensions []string `json:"extensions"`
}

type modelMetadata struct {
	Name     string           `json:"name"`
	Versions []string         `json:"versions"`
	Platform string           `json:"platform"`
	Inputs   []tensorMetadata `json:"inputs"`
	Outputs  []tensorMetadata `json:"outputs"`
}

type tensorMetadata struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
}

func (s *Server) serverMetadata() serverMetadata {
	return serverMetadata{Name: "tidemill", Version: s.cfg.Version, Extensions: []string{"binary_tensor_data"}}
}

// modelMetadata describes one version of a model, and names the versions that are loaded.
func (s *Server) modelMetadata(name, version string) (*modelMetadata, error) {
	m, err := s.named(name)
	if err != nil {
		return nil, err
	}
	v, err := m.acquire(version)
	if err != nil {
		return nil, err
	}
	defer v.release()
	meta := &modelMetadata{Name: m.name, Platform: "tidemill_" + v.model.Spec().Architecture.Kind}
	for _, n := range m.versions() {
		meta.Versions = append(meta.Versions, strconv.FormatInt(n, 10))
	}
	for _, c := range v.columns {
		meta.Inputs = append(meta.Inputs, tensorMetadata{c.name, c.datatype, c.shape()})
	}
	shape := []int64{-1}
	if n := v.model.Outputs(); n > 1 {
		shape = append(shape, int64(n))
	}
	meta.Outputs = []tensorMetadata{{outputName, "FP32", shape}}
	return meta, nil
}

// modelReady reports whether a version answers. A model that is not served, or a version that
// is not loaded, is ErrNotFound.
func (s *Server) modelReady(name, version string) (bool, error) {
	m, err := s.named(name)
	if err != nil {
		return false, err
	}
	if version == "" || version == "champion" {
		return m.champion.Load() != nil && !s.leaving.Load(), nil
	}
	v, err := m.acquire(version)
	if err != nil {
		return false, err
	}
	v.release()
	return !s.leaving.Load(), nil
}
