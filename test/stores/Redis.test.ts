import { Layer } from "effect"
import { BudgetStore } from "../../src/index.ts"
import { RedisBudgetStore } from "../../src/redis/index.ts"
import * as Redis from "../utils/redisServer.ts"
import { describeWith } from "../utils/servers.ts"
import { conformance } from "./conformance.ts"

describeWith(Redis.server, "Redis", () => {
  const store = RedisBudgetStore.layer({ pollInterval: "200 millis" }).pipe(Layer.provide(Redis.layer()))
  conformance({ name: "Redis", layer: store })
  conformance({
    name: "leased Redis",
    layer: BudgetStore.BudgetStore.layerLeased({ renewEvery: "300 millis", pollInterval: "100 millis" }).pipe(
      Layer.provide(RedisBudgetStore.layer({ pollInterval: "200 millis" })),
      Layer.provide(Redis.layer())
    )
  })
})
