// A provider of tokens that is not ours: `node provider.js PORT`. It prints its issuer when it listens.
// A token is for the subject, the audience and the scope that its request names; SIGUSR2 adds a key, which it uses in turn.
import { OAuth2Server } from 'oauth2-mock-server'

const server = new OAuth2Server()
await server.issuer.keys.generate('RS256')
server.service.on('beforeTokenSigning', (token, request) => {
  const { username: sub, audience: aud } = request.body
  Object.assign(token.payload, { sub, aud })
})
process.on('SIGUSR2', async () => {
  await server.issuer.keys.generate('ES256')
  console.log('a new key')
})
await server.start(Number(process.argv[2]), '127.0.0.1')
console.log(server.issuer.url)
