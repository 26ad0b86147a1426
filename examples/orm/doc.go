// Package orm shows Surepost beside the tools that Go services reach their databases with. In each package below it a
// small shop commits an order and its event in one transaction; copy it and replace the order.
//
//	gormshop     gorm
//	sqlxshop     sqlx
//	bunshop      bun
//	entshop      ent
//	sqlcshop     sqlc, over database/sql
//	sqlcpgxshop  sqlc, over pgx
//
// They are a module of their own, so that nobody else downloads these tools.
package orm
