package authenticator

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"
	"github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/jwx/v3/jwk"
)

// Rule gives groups of the user file to those whose claims suit.
type Rule struct {
	When   string   `yaml:"when"` // an expression over claims, such as: "sre" in claims.groups
	Groups []string `yaml:"groups"`
}

// OIDC is an OpenID provider whose id tokens are believed.
type OIDC struct {
	Issuer       string        `yaml:"issuer"` // its URL
	ClientID     string        `yaml:"client_id"`
	Scopes       []string      `yaml:"scopes"`        // that clients ask for; openid is always among them
	Caller       string        `yaml:"caller"`        // the claim that names the person; sub if empty
	MaxAge       time.Duration `yaml:"max_age"`       // of an id token; 10 minutes if 0
	WithoutNonce bool          `yaml:"without_nonce"` // providers leave the nonce out of the id tokens of the device flow
	Organization string        `yaml:"organization"`  // whose tokens people get; that of the issuer if empty
	Rules        []Rule        `yaml:"rules"`
}

// Limits of what is read from a provider.
const (
	keysFor      = time.Hour        // how long its keys are used
	keysAfter    = 10 * time.Second // between two attempts to read them
	providerTime = 10 * time.Second
	maxDocument  = 1 << 20
	oidcLeeway   = time.Minute
)

// Algorithms of id tokens: none with a shared secret.
var idAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"} //nolint:gochecknoglobals // a table

// provider verifies id tokens.
type provider struct {
	OIDC
	rules  []*vm.Program
	client *http.Client
	parser *jwt.Parser

	reading chan struct{} // held while keys are read
	mu      sync.Mutex
	keys    jwk.Set
	read    time.Time // when the keys were read
	tried   time.Time // when that was last tried
}

// Check says what is wrong with the settings.
func (o OIDC) Check() error {
	u, err := url.Parse(o.Issuer)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return fmt.Errorf("oidc: issuer %.80q is not an https URL", o.Issuer)
	}
	if o.ClientID == "" {
		return errors.New("oidc: client_id is empty")
	}
	if o.MaxAge < 0 || o.MaxAge > 24*time.Hour {
		return fmt.Errorf("oidc: max_age %v, want a day at most", o.MaxAge)
	}
	if len(o.Rules) == 0 {
		return errors.New("oidc: without rules nobody could log in")
	}
	_, err = o.compile()
	return err
}

func (o OIDC) compile() ([]*vm.Program, error) {
	var out []*vm.Program
	for i, r := range o.Rules {
		p, err := expr.Compile(r.When, expr.Env(map[string]any{"claims": map[string]any{}}), expr.AsBool())
		if err != nil {
			return nil, fmt.Errorf("oidc: rule %d: when: %w", i+1, err)
		}
		if len(r.Groups) == 0 {
			return nil, fmt.Errorf("oidc: rule %d gives no groups", i+1)
		}
		out = append(out, p)
	}
	return out, nil
}

// newProvider reads nothing yet: whoever has no OpenID account can log in while
// the provider cannot be reached.
func newProvider(o OIDC, client *http.Client, now func() time.Time) (*provider, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Caller == "" {
		o.Caller = "sub"
	}
	if o.MaxAge == 0 {
		o.MaxAge = 10 * time.Minute
	}
	if !slices.Contains(o.Scopes, "openid") {
		o.Scopes = append([]string{"openid"}, o.Scopes...)
	}
	rules, err := o.compile()
	if err != nil {
		return nil, err
	}
	c := http.Client{}
	if client != nil {
		c = *client
	}
	c.Timeout = providerTime
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return errors.New("it redirects") }
	return &provider{
		OIDC: o, rules: rules, client: &c, reading: make(chan struct{}, 1),
		parser: jwt.NewParser(jwt.WithValidMethods(idAlgorithms), jwt.WithIssuer(o.Issuer), jwt.WithAudience(o.ClientID),
			jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(oidcLeeway), jwt.WithTimeFunc(now), jwt.WithStrictDecoding()),
	}, nil
}

// errProvider says that a provider could not be asked, so nothing is known.
var errProvider = errors.New("the OpenID provider cannot be asked")

// verify says what a valid id token claims, which was made for the nonce.
func (p *provider) verify(ctx context.Context, now time.Time, text, nonce string) (jwt.MapClaims, error) {
	var c jwt.MapClaims
	_, err := p.parser.ParseWithClaims(text, &c, func(t *jwt.Token) (any, error) { return p.keysFor(ctx, now, t) })
	if errors.Is(err, errProvider) {
		return nil, err
	}
	if err != nil {
		return nil, idTokenError(err)
	}
	if issued, err := c.GetIssuedAt(); err != nil || issued == nil || now.Sub(issued.Time) > p.MaxAge+oidcLeeway {
		return nil, fmt.Errorf("the id token was not made within the last %v", p.MaxAge)
	}
	aud, err := c.GetAudience()
	azp, has := c["azp"].(string)
	if err != nil || len(aud) > 1 && !has || has && azp != p.ClientID {
		return nil, errors.New("the id token was made for another client (azp)")
	}
	got, has := c["nonce"].(string)
	_, there := c["nonce"]
	switch {
	case !there && p.WithoutNonce:
	case !has || subtle.ConstantTimeCompare([]byte(got), []byte(nonce)) != 1:
		return nil, errors.New("the id token was not made for this key (nonce)")
	}
	return c, nil
}

// idTokenError names what is wrong with an id token, and repeats nothing of it.
func idTokenError(err error) error {
	for _, e := range []error{
		jwt.ErrTokenExpired, jwt.ErrTokenInvalidIssuer, jwt.ErrTokenInvalidAudience, jwt.ErrTokenSignatureInvalid,
		jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenNotValidYet, jwt.ErrTokenRequiredClaimMissing, jwt.ErrTokenUnverifiable, jwt.ErrTokenMalformed,
	} {
		if errors.Is(err, e) {
			return fmt.Errorf("the id token: %w", e)
		}
	}
	return errors.New("the id token is not valid")
}

// keysFor are the keys that may have signed an id token. A key id that is not known
// makes it read the keys again, as providers replace them.
func (p *provider) keysFor(ctx context.Context, now time.Time, t *jwt.Token) (any, error) {
	kid, _ := t.Header["kid"].(string)
	if set, fresh := p.known(now); fresh {
		if keys := p.pick(set, kid, t.Method.Alg()); len(keys.Keys) > 0 {
			return keys, nil
		}
	}
	set, err := p.refresh(ctx, now)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProvider, err)
	}
	keys := p.pick(set, kid, t.Method.Alg())
	if len(keys.Keys) == 0 {
		return nil, errors.New("no key of the provider has that id and algorithm")
	}
	return keys, nil
}

func (p *provider) known(now time.Time) (set jwk.Set, fresh bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keys, p.keys != nil && now.Sub(p.read) < keysFor
}

func (p *provider) pick(set jwk.Set, kid, alg string) jwt.VerificationKeySet {
	var out jwt.VerificationKeySet
	for i := range set.Len() {
		k, ok := set.Key(i)
		if !ok {
			continue
		}
		id, hasID := k.KeyID()
		if use, ok := k.KeyUsage(); ok && use != "sig" {
			continue
		}
		if a, ok := k.Algorithm(); ok && a.String() != alg {
			continue
		}
		if kid != "" && hasID && id != kid {
			continue
		}
		var raw any
		if public, err := k.PublicKey(); err == nil && jwk.Export(public, &raw) == nil {
			if _, shared := raw.([]byte); !shared {
				out.Keys = append(out.Keys, raw)
			}
		}
	}
	return out
}

// refresh reads the keys, once for all that wait for it, and not more often than
// somebody with made-up key ids deserves.
func (p *provider) refresh(ctx context.Context, now time.Time) (jwk.Set, error) {
	select {
	case p.reading <- struct{}{}:
		defer func() { <-p.reading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.mu.Lock()
	set, read, tried := p.keys, p.read, p.tried
	soon := !tried.IsZero() && now.Sub(tried) < keysAfter
	if !soon {
		p.tried = now
	}
	p.mu.Unlock()
	if soon {
		if set == nil || now.Sub(read) >= keysFor {
			return nil, errors.New("that has failed a moment ago")
		}
		return set, nil
	}
	var doc struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	b, err := p.get(ctx, strings.TrimSuffix(p.Issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, errors.New("its configuration is not JSON")
	}
	if doc.Issuer != p.Issuer {
		return nil, fmt.Errorf("it calls itself %.200q and not %q", doc.Issuer, p.Issuer)
	}
	if !strings.HasPrefix(doc.Keys, "https://") && !strings.HasPrefix(p.Issuer, "http://") {
		return nil, fmt.Errorf("its keys are at %.200q, which is not https", doc.Keys)
	}
	if b, err = p.get(ctx, doc.Keys); err != nil {
		return nil, err
	}
	if set, err = jwk.Parse(b); err != nil {
		return nil, fmt.Errorf("its keys cannot be read: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys, p.read = set, now
	return set, nil
}

func (p *provider) get(ctx context.Context, from string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, fmt.Errorf("its address: %w", err)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s says %s", from, resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		err = fmt.Errorf("%s has more than %d bytes", from, maxDocument)
	}
	return b, err
}

// name is the name of the person, without its kind.
func (p *provider) name(c jwt.MapClaims) (string, error) {
	s, _ := c[p.Caller].(string)
	if !userName.MatchString(s) {
		return "", fmt.Errorf("the claim %.80q is not a name of letters, digits and @._-", p.Caller)
	}
	if verified, _ := c["email_verified"].(bool); p.Caller == "email" && !verified {
		return "", errors.New("the provider has not verified the address (email_verified)")
	}
	return s, nil
}

// groups are those that the rules give. A rule that fails is no reason to go on
// with the others: it could have been one that restricts (S2).
func (p *provider) groups(c jwt.MapClaims) ([]string, error) {
	var out []string
	for i, r := range p.rules {
		v, err := expr.Run(r, map[string]any{"claims": map[string]any(c)})
		if err != nil {
			return nil, fmt.Errorf("rule %d of oidc does not suit the claims", i+1)
		}
		if yes, _ := v.(bool); yes {
			out = append(out, p.Rules[i].Groups...)
		}
	}
	slices.Sort(out)
	if len(out) == 0 {
		return nil, errors.New("no rule of oidc gives a group")
	}
	return slices.Compact(out), nil
}

// loopback says whether a host is this one for sure.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
