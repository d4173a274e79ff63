package ca

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// Join tokens. A token is a random secret that lets its bearer obtain one identity. It is one-time: the first key that redeems it is written
// down, and until the token expires the same key may redeem it again (so that an answer lost on the way does no harm); any other key is
// refused. Only a hash of the token is stored, one file each in dataDir/tokens, so that tokens can be issued by another process while the
// controller runs.

// Errors of redeeming.
var (
	ErrTokenUnknown  = errors.New("join token is not known here; issue a new one")
	ErrTokenExpired  = errors.New("join token has expired; issue a new one")
	ErrTokenUsed     = errors.New("join token was already used with another key; issue a new one")
	ErrTokenIdentity = errors.New("join token is for another identity")
)

const tokenPrefix = "tulle-"

type tokenFile struct {
	Namespace      string    `json:"namespace"`
	ServiceAccount string    `json:"serviceAccount"`
	Issued         time.Time `json:"issued"`
	Expires        time.Time `json:"expires"`
	UsedBy         string    `json:"usedBy,omitempty"` // SHA-256 of the SubjectPublicKeyInfo that redeemed it
	UsedAt         time.Time `json:"usedAt,omitzero"`
}

// IssueToken creates a token for namespace and service account, good for ttl from now.
func IssueToken(dataDir, namespace, serviceAccount string, now time.Time, ttl time.Duration) (string, error) {
	if _, err := identity.Workload("any", namespace, serviceAccount); err != nil {
		return "", fmt.Errorf("issue token: %w", err)
	}
	if ttl <= 0 {
		return "", fmt.Errorf("issue token: lifetime %s must be positive", ttl)
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return "", fmt.Errorf("issue token: %w", err)
	}
	token := tokenPrefix + base64.RawURLEncoding.EncodeToString(secret)
	if err := os.MkdirAll(tokenDir(dataDir), 0o700); err != nil {
		return "", fmt.Errorf("issue token: %w (choose a writable data directory)", err)
	}
	t := tokenFile{Namespace: namespace, ServiceAccount: serviceAccount, Issued: now.UTC(), Expires: now.Add(ttl).UTC()}
	if err := writeToken(tokenPath(dataDir, token), t); err != nil {
		return "", fmt.Errorf("issue token: %w", err)
	}
	return token, nil
}

func tokenDir(dataDir string) string { return filepath.Join(dataDir, "tokens") }

func tokenPath(dataDir, token string) string {
	sum := sha256.Sum256([]byte(token))
	return filepath.Join(tokenDir(dataDir), hex.EncodeToString(sum[:])+".json")
}

func writeToken(path string, t tokenFile) error {
	content, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return writeAtomic(path, content, 0o600)
}

// tokens redeems; one per data directory.
type tokens struct {
	dataDir string
	mu      sync.Mutex // a token is read and marked used in one step
}

func (s *tokens) redeem(token string, id identity.ID, spki []byte, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := tokenPath(s.dataDir, token)
	content, err := os.ReadFile(path)
	if err != nil {
		return ErrTokenUnknown
	}
	var t tokenFile
	if err := json.Unmarshal(content, &t); err != nil {
		return ErrTokenUnknown
	}
	if !now.Before(t.Expires) {
		return ErrTokenExpired
	}
	if ns, sa, ok := id.Account(); !ok || ns != t.Namespace || sa != t.ServiceAccount {
		return fmt.Errorf("%w: it is for service account %s in namespace %s", ErrTokenIdentity, t.ServiceAccount, t.Namespace)
	}
	sum := sha256.Sum256(spki)
	key := hex.EncodeToString(sum[:])
	switch t.UsedBy {
	case key:
		return nil
	case "":
		t.UsedBy, t.UsedAt = key, now.UTC()
		return writeToken(path, t)
	default:
		return ErrTokenUsed
	}
}

// sweep removes tokens that expired more than a day ago.
func (s *tokens) sweep(now time.Time) {
	entries, err := os.ReadDir(tokenDir(s.dataDir))
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(tokenDir(s.dataDir), e.Name())
		content, err := os.ReadFile(path)
		var t tokenFile
		if err == nil && json.Unmarshal(content, &t) == nil && now.After(t.Expires.Add(24*time.Hour)) {
			os.Remove(path)
		}
	}
}
