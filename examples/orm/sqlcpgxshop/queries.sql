-- name: InsertOrder :exec
INSERT INTO orders (id, customer, quantity) VALUES ($1, $2, $3);
