package main

// Item is something that the shop sells.
type Item struct {
	SKU   string
	Name  string
	Cents int64 // price of one
	Stock int64 // on hand when the inventory service starts for the first time
}

// catalog is what the shop sells. Three pieces each of the five dearest items stay below orderLimitCents: only orders
// that were meant to be refused are.
var catalog = []Item{
	{"tea-assam", "Assam, loose leaf, 250 g", 1190, 200_000},
	{"tea-sencha", "煎茶 Sencha, 100 g", 1490, 200_000},
	{"tea-rooibos", "Rooibos, 500 g", 990, 200_000},
	{"tea-mint", "Nana mint, 75 g", 590, 200_000},
	{"tea-earl", "Earl Grey, 250 g", 1090, 200_000},
	{"cof-house", "House blend, 1 kg", 1890, 200_000},
	{"cof-decaf", "Decaf, 500 g", 1290, 200_000},
	{"cof-yirga", "Yirgacheffe, 250 g", 1350, 200_000},
	{"cof-espresso", "Espresso »Süd«, 1 kg", 2190, 200_000},
	{"cof-filter", "Paper filters, 100", 390, 200_000},
	{"pot-iron", "Cast iron teapot, 0.8 l", 4990, 200_000},
	{"pot-glass", "Glass teapot, 1.2 l", 2990, 200_000},
	{"pot-moka", "Moka pot, 6 cups", 3490, 200_000},
	{"pot-press", "French press, 1 l", 2790, 200_000},
	{"pot-kettle", "Gooseneck kettle", 5990, 200_000},
	{"cup-white", "Cup, white", 690, 200_000},
	{"cup-blue", "Cup, blue", 690, 200_000},
	{"cup-espresso", "Espresso cup", 490, 200_000},
	{"cup-travel", "Travel mug, 0.4 l", 2490, 200_000},
	{"cup-raku", "Chawan, raku", 5490, 200_000},
	{"gri-hand", "Hand grinder", 5790, 200_000},
	{"gri-brush", "Grinder brush", 790, 200_000},
	{"acc-scale", "Scale, 0.1 g", 3290, 200_000},
	{"acc-timer", "Tea timer", 1290, 200_000},
	{"acc-whisk", "Chasen, bamboo", 1690, 200_000},
	{"acc-strainer", "Strainer, fine", 890, 200_000},
	{"acc-tin", "Tea tin, 250 g", 790, 200_000},
	{"acc-spoon", "Measuring spoon", 450, 200_000},
	{"acc-cloth", "Tea towel, linen", 1150, 200_000},
	{"acc-tray", "Tray, ash", 3890, 200_000},
	{"swe-honey", "Thyme honey, 450 g", 1250, 200_000},
	{"swe-candy", "Rock candy, 500 g", 520, 200_000},
	{"swe-shortbread", "Shortbread, 200 g", 480, 200_000},
	{"swe-cantucci", "Cantucci, 250 g", 650, 200_000},
	{"swe-dark", "Chocolate, 85 %", 390, 200_000},
	{"swe-dates", "Medjool dates, 500 g", 990, 200_000},
	{"oat-drink", "Oat drink, 1 l", 250, 200_000},
	{"soy-drink", "Soy drink, 1 l", 270, 200_000},
	{"gift-card", "Gift card", 2500, 200_000},
	{"gift-box", "Gift box »Grüße«", 3990, 200_000},
}

// itemOf finds items by their SKU.
var itemOf = func() map[string]Item {
	of := make(map[string]Item, len(catalog))
	for _, item := range catalog {
		of[item.SKU] = item
	}
	return of
}()
