package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ordersFileVersion is part of the file's name. It changes with the generator, so that an older file isn't taken for
// the current one's.
const ordersFileVersion = 1

// ordersFileOrders is how many orders a file has at least; runs with fewer use the first ones.
const ordersFileOrders = 20_000

// readOrders returns the first n orders of the seed's file in folder, and makes the file if it isn't there.
func readOrders(folder string, seed uint64, n int) ([]Order, error) {
	count := max(n, ordersFileOrders)
	path := filepath.Join(folder, fmt.Sprintf("orders-%d-v%d-seed%d.jsonl", count, ordersFileVersion, seed))
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := writeOrders(path, seed, count); err != nil {
			return nil, fmt.Errorf("make the orders file: %w", err)
		}
		file, err = os.Open(path)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	orders := make([]Order, n)
	from := json.NewDecoder(bufio.NewReader(file))
	for i := range orders {
		if err := from.Decode(&orders[i]); err != nil {
			return nil, fmt.Errorf("%s: order %d: %w (remove the file: it is made anew)", path, i+1, err)
		}
	}
	return orders, nil
}

// writeOrders makes the file under another name first: a run that is interrupted leaves no half of it.
func writeOrders(path string, seed uint64, count int) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	w := bufio.NewWriter(file)
	to := json.NewEncoder(w)
	to.SetEscapeHTML(false)
	next := generateOrders(seed)
	for range count {
		if err := to.Encode(next()); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	if err := errors.Join(w.Flush(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// customerCount is how many customers order. Few order much and many a little: the busiest one makes about 3 % of all
// orders, the laziest 0.04 %.
const customerCount = 500

// generateOrders returns a function that returns one order after the other, the same ones for the same seed. Of each
// ten in a row one is over the limit.
func generateOrders(seed uint64) func() Order {
	r := rand.New(rand.NewPCG(seed, 0x6f7264657273)) // "orders"
	customers := makeCustomers(r)
	who := rand.NewZipf(r, 1.1, 10, customerCount-1)
	made, bulk := 0, 0
	at := time.Date(2026, time.January, 15, 8, 0, 0, 0, time.UTC)
	return func() Order {
		if made%10 == 0 {
			bulk = r.IntN(10)
		}
		customer := customers[who.Uint64()]
		at = at.Add(time.Duration(r.ExpFloat64() * float64(4*time.Second))).Truncate(time.Millisecond)
		order := Order{
			ID: fmt.Sprintf("ord_%06d", made+1), Customer: customer.Customer, ShipTo: customer.address,
			Currency: "EUR", Lines: pickLines(r), PlacedAt: at,
		}
		if r.IntN(3) == 0 {
			order.Note = pick(r, notes)
		}
		if made%10 == bulk { // somebody orders for the whole company
			line := &order.Lines[r.IntN(len(order.Lines))]
			line.Quantity += int(orderLimitCents/itemOf[line.SKU].Cents) + 1
		}
		made++
		return order
	}
}

// pickLines picks one to five different items, mostly one piece of each.
func pickLines(r *rand.Rand) []Line {
	lines := make([]Line, 1+min(r.IntN(5), r.IntN(5)+1))
	for i, at := range r.Perm(len(catalog))[:len(lines)] {
		lines[i] = Line{SKU: catalog[at].SKU, Quantity: 1 + r.IntN(3)*r.IntN(2)}
	}
	return lines
}

type customerWithAddress struct {
	Customer
	address Address
}

func makeCustomers(r *rand.Rand) []customerWithAddress {
	customers := make([]customerWithAddress, customerCount)
	for i := range customers {
		first, last, place := pick(r, firstNames), pick(r, lastNames), pick(r, places)
		customers[i] = customerWithAddress{
			Customer: Customer{
				ID:    fmt.Sprintf("cus_%04d", i+1),
				Name:  first + " " + last,
				Email: asciiOf.Replace(strings.ToLower(first+"."+last)) + fmt.Sprintf("%d@example.com", i+1),
			},
			address: Address{
				Street: fmt.Sprintf("%s %d", pick(r, place.streets), 1+r.IntN(180)), PostalCode: place.postalCode, City: place.city, Country: place.country,
			},
		}
	}
	return customers
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// asciiOf writes lower-case names in the letters that every mail server takes.
var asciiOf = strings.NewReplacer("ä", "ae", "ö", "oe", "ü", "ue", "ß", "ss", "ø", "o", "å", "a", "á", "a", "ć", "c", "è", "e", "é", "e", "ë", "e",
	"í", "i", "ı", "i", "ł", "l", "ñ", "n", "ž", "z", "'", "", " ", "")

var (
	firstNames = []string{"Anna", "Émile", "Jürgen", "Łukasz", "Søren", "Zoë", "Mehmet", "Chloé", "Iñaki", "Åsa", "Björn", "Noor", "Paul", "Sofía", "Tomás", "Greta", "Hüseyin", "Ivana", "Jakub", "Katarzyna"}
	lastNames  = []string{"Müller", "O'Brien", "García", "Nowak", "Ødegård", "Yılmaz", "Lefèvre", "van den Berg", "Rossi", "Schröder", "Novák", "Žižek", "Kovać", "Lindqvist", "Peña", "Smith", "Weiß", "Dubois", "Silva", "Horvat"}
	places     = []struct {
		city, postalCode, country string
		streets                   []string
	}{
		{"Köln", "50667", "DE", []string{"Große Budengasse", "Am Malzbüchel", "Hohe Straße"}},
		{"Łódź", "90-001", "PL", []string{"Piotrkowska", "Żeromskiego", "Gdańska"}},
		{"Lyon", "69001", "FR", []string{"Rue de la République", "Montée de la Grande-Côte", "Quai Saint-Vincent"}},
		{"Málaga", "29001", "ES", []string{"Calle Marqués de Larios", "Alameda Principal", "Calle Compañía"}},
		{"Malmö", "211 20", "SE", []string{"Södra Förstadsgatan", "Östergatan", "Kärleksgatan"}},
		{"København", "1050", "DK", []string{"Nørre Voldgade", "Østergade", "Strøget"}},
		{"Utrecht", "3511 AB", "NL", []string{"Oudegracht", "Vredenburg", "'t Goylaan"}},
		{"İzmir", "35210", "TR", []string{"Kıbrıs Şehitleri Caddesi", "Gündoğdu Meydanı", "Şair Eşref Bulvarı"}},
		{"Wien", "1010", "AT", []string{"Kärntner Straße", "Schönlaterngasse", "Am Hof"}},
		{"Cork", "T12 W8KX", "IE", []string{"Oliver Plunkett Street", "St. Patrick's Street", "Lavitt's Quay"}},
	}
	notes = []string{
		"Bitte bei den Nachbarn abgeben, danke! 🙏",
		"Déposer chez la gardienne, code 4711Б",
		"Please ring \"Smith & Sons\" <2nd floor>",
		"置き配でお願いします。",
		"Regalo para mamá ❤️, ¡sin factura por favor!",
		"Back door;\nbeware of the dog 🐕",
		"اتركها عند الباب",
		"C:\\Lager\\Tor 3",
	}
)
