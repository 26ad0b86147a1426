package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// result is one figure with its reference: what a case prints, one per line with -json.
type result struct {
	Case      string         `json:"case"` // "drain", or "write/8" where a case has several figures
	Figure    float64        `json:"figure"`
	Reference float64        `json:"reference"`
	Ratio     float64        `json:"ratio"` // above 1 means better than the reference, whatever the unit
	Unit      string         `json:"unit"`
	Settings  map[string]any `json:"settings"` // with the aim, whether it was met, and every single measurement
}

// newRate returns a result of which more is better.
func newRate(name, unit string, figure, reference float64, settings map[string]any) result {
	return result{Case: name, Figure: figure, Reference: reference, Ratio: figure / reference, Unit: unit, Settings: settings}
}

// newCost returns a result of which less is better: its ratio is reference / figure.
func newCost(name, unit string, figure, reference float64, settings map[string]any) result {
	r := result{Case: name, Figure: figure, Reference: reference, Ratio: reference / figure, Unit: unit, Settings: settings}
	r.Settings["ratio_is"] = "reference / figure, since less is better"
	return r
}

// atLeast states the ratio that the case aims at.
func (r result) atLeast(ratio float64) result {
	return r.aim(fmt.Sprintf("ratio ≥ %g", ratio), r.Ratio >= ratio)
}

// atMost states the figure that the case aims at.
func (r result) atMost(figure float64) result {
	return r.aim(fmt.Sprintf("figure ≤ %.4g %s", figure, r.Unit), r.Figure <= figure)
}

func (r result) aim(text string, met bool) result {
	r.Settings["aim"], r.Settings["aim_met"] = text, met
	return r
}

// verdict is the aim and whether it was met, in words.
func (r result) verdict() (aim, met string) {
	aim, _ = r.Settings["aim"].(string)
	switch ok, _ := r.Settings["aim_met"].(bool); {
	case aim == "":
		return "–", "–"
	case ok:
		return aim, "yes"
	}
	return aim, "no"
}

func printJSON(w io.Writer, results []result) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	for _, r := range results {
		if err := encoder.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

func printTable(w io.Writer, results []result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "case\tfigure\treference\tunit\tratio\taim\tmet")
	for _, r := range results {
		aim, met := r.verdict()
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.3f\t%s\t%s\n", r.Case, number(r.Figure), number(r.Reference), r.Unit, r.Ratio, aim, met)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		fmt.Fprintf(w, "\n%s\n", r.Case)
		for _, line := range settingLines(r.Settings) {
			fmt.Fprintln(w, "  "+line)
		}
	}
	return nil
}

// number shows three significant digits, and whole numbers above a hundred.
func number(v float64) string {
	if v >= 100 || v == 0 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// settingLines are the settings in alphabetical order, without those that are shown elsewhere.
func settingLines(settings map[string]any) []string {
	var lines []string
	for k, v := range settings {
		switch k {
		case "aim", "aim_met", "environment":
			continue
		}
		text, err := json.Marshal(v)
		if err != nil {
			text = fmt.Append(nil, v)
		}
		lines = append(lines, k+": "+strings.Trim(string(text), `"`))
	}
	slices.Sort(lines)
	return lines
}
