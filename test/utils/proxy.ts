/** A TCP proxy on loopback that cuts connections on demand, after the question has reached the server. */
import { Effect, type Scope } from "effect"
import { connect, createServer, type Socket } from "node:net"

export interface Proxy {
  readonly port: number
  /** Cuts every connection at the next answer of the server, which is then lost. */
  readonly cutAtNextAnswer: () => void
  /** Bytes that clients sent, in how many pieces. */
  readonly asked: { pieces: number; bytes: number }
}

export const make = (to: number): Effect.Effect<Proxy, never, Scope.Scope> =>
  Effect.gen(function* () {
    const sockets = new Set<Socket>()
    const asked = { pieces: 0, bytes: 0 }
    let cut = false
    const server = createServer((client) => {
      const upstream = connect({ host: "127.0.0.1", port: to })
      const end = (): void => {
        client.destroy()
        upstream.destroy()
      }
      for (const socket of [client, upstream]) {
        sockets.add(socket)
        socket.setNoDelay(true)
        socket.on("error", end)
        socket.on("close", () => {
          sockets.delete(socket)
          end()
        })
      }
      client.on("data", (data) => {
        asked.pieces++
        asked.bytes += data.length
        upstream.write(data)
      })
      upstream.on("data", (data) => {
        if (!cut) return void client.write(data)
        cut = false
        for (const socket of sockets) socket.destroy()
      })
    })
    yield* Effect.acquireRelease(
      Effect.callback<void>((resume) => void server.listen(0, "127.0.0.1", () => resume(Effect.void))),
      () =>
        Effect.callback<void>((resume) => {
          for (const socket of sockets) socket.destroy()
          server.close(() => resume(Effect.void))
        })
    )
    const address = server.address()
    return {
      port: typeof address === "object" && address !== null ? address.port : 0,
      cutAtNextAnswer: () => {
        cut = true
      },
      asked
    }
  })
