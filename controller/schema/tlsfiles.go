package schema

// tlsFilesFacts are of TLSFiles.
var tlsFilesFacts = []Fact{
	{"spec.certFile", "", "none", "absolute path", "a certificate with its chain; with `keyFile`"},
	{"spec.keyFile", "", "none", "absolute path", "its key"},
	{"spec.caFile", "", "none", "absolute path", "trust anchors"},
}
