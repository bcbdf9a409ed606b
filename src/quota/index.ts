/** Named resources that are declared in a manifest and used through tokens with fair shares. */
export { Quota, type QuotaOptions, type QuotaUsage, type QuotaUsages } from "./Quota.ts"
export * as QuotaManifest from "./QuotaManifest.ts"
export * as QuotaToken from "./QuotaToken.ts"
