package resource

import (
	"fmt"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// TLSFiles names files of TLS on the host of the sidecar that uses them. It is in files what a Secret or a ConfigMap of the same name is in Kubernetes: references to these find it.
type TLSFiles struct {
	Header `yaml:",inline"`
	Spec   TLSFilesSpec `yaml:"spec"`
}

// TLSFilesSpec of TLSFiles. Paths are absolute; what they hold is PEM.
type TLSFilesSpec struct {
	CertFile string `yaml:"certFile,omitempty"` // a certificate with its chain; with keyFile
	KeyFile  string `yaml:"keyFile,omitempty"`  // its key
	CAFile   string `yaml:"caFile,omitempty"`   // trust anchors
}

func (f *TLSFiles) check() error {
	if err := f.Header.check(); err != nil {
		return err
	}
	s := f.Spec
	switch {
	case (s.CertFile == "") != (s.KeyFile == ""):
		return fmt.Errorf("spec: certFile and keyFile are a pair; give both, or none")
	case s.CertFile == "" && s.CAFile == "":
		return fmt.Errorf("spec: names no file; give certFile and keyFile, caFile, or all three")
	}
	for _, p := range []struct{ field, path string }{{"spec.certFile", s.CertFile}, {"spec.keyFile", s.KeyFile}, {"spec.caFile", s.CAFile}} {
		if err := policy.CheckFile(p.field, p.path); err != nil {
			return err
		}
	}
	return nil
}

// tlsFiles finds what a reference of an object in from to a Secret or the like leads to. what is "certificate" or "ca".
func (t *attaching) tlsFiles(fromKind, from, group, kind, namespace, name string) (*TLSFiles, *refError) {
	switch {
	case group == "" && (kind == "Secret" || kind == "ConfigMap"), group == tulleGroup && kind == "TLSFiles":
	default:
		return nil, &refError{"InvalidKind", fmt.Sprintf("%s is no kind that holds TLS files; name a Secret, a ConfigMap, or TLSFiles of group %s", groupKind(group, kind), tulleGroup)}
	}
	if namespace != from && !t.granted(fromKind, from, group, kind, namespace, name) {
		return nil, &refError{"RefNotPermitted", fmt.Sprintf("%s %s/%s is in another namespace, which does not allow it; add a ReferenceGrant there, from %s of namespace %s to %s",
			groupKind(group, kind), namespace, name, fromKind, from, groupKind(group, kind))}
	}
	e, ok := t.set.Entries[Key{Kind: "TLSFiles", Namespace: namespace, Name: name}]
	if !ok {
		return nil, &refError{"", fmt.Sprintf("no TLSFiles %s/%s, which say in files where a certificate is; add them", namespace, name)}
	}
	return e.Object.(*TLSFiles), nil
}
