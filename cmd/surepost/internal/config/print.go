package config

// Setting is a key with its effective value, as `surepost config print` shows it.
type Setting struct {
	Key    string `json:"key" doc:"the key's path in the file"`
	Value  string `json:"value" doc:"its effective value as text; secrets are masked"`
	Origin Origin `json:"origin" doc:"where it came from"`
}

// Settings returns all keys with their effective values, secrets masked.
func (c *Config) Settings() []Setting {
	settings := make([]Setting, 0, len(c.keys))
	for _, k := range c.keys {
		settings = append(settings, Setting{k.Path, k.Shown(), c.Origin(k.Path)})
	}
	return settings
}

// Problem returns a problem of the key with where its value came from.
func (c *Config) Problem(key, message, remedy string) Problem {
	return Problem{Key: key, Origin: c.Origin(key), Message: message, Remedy: remedy}
}

// Describe returns the problem of an error about the key: what reads files and values here says what and remedy apart.
func (c *Config) Describe(key string, err error) Problem {
	l := loader{config: c}
	l.problem(key, c.Origin(key), err)
	return l.problems[0]
}
