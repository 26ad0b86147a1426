package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

type versionCommand struct{}

func (versionCommand) Run(s *session) error {
	return printOne(s, version(s.Version), func(w io.Writer, v VersionView) {
		fmt.Fprintf(w, "surepost %s\n", v.Version)
		if v.Commit != "" {
			changed := ""
			if v.Changed {
				changed = ", with changes"
			}
			fmt.Fprintf(w, "commit %s%s\n", v.Commit, changed)
		}
		fmt.Fprintf(w, "%s %s\n", v.Go, v.OS)
	})
}

// version is what the build says of itself, unless the linker was told a version.
func version(linked string) VersionView {
	v := VersionView{Version: linked, Go: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			v.Commit = setting.Value
		case "vcs.modified":
			v.Changed = setting.Value == "true"
		}
	}
	return v
}
